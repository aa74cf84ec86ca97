import os
import re

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.build import check_min_cppstd
from conan.tools.files import copy, load
from conan.tools.layout import basic_layout

required_conan_version = ">=2.0.9"


class LockstepConan(ConanFile):
    name = "lockstep"
    description = "Header-only C++20 coroutine toolkit for programs that must agree over a network"
    license = "BSL-1.0"
    topics = ("networking", "replication", "consensus", "log", "coroutines", "asio", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    no_copy_source = True

    def set_version(self):
        rules = load(self, os.path.join(self.recipe_folder, os.pardir, "CMakeLists.txt"))
        self.version = re.search(r"^ *VERSION ([0-9.]+)$", rules, re.MULTILINE).group(1)

    def export_sources(self):
        root = os.path.join(self.recipe_folder, os.pardir)
        copy(self, "LICENSE", root, self.export_sources_folder)
        copy(self, "include/*.hpp", root, self.export_sources_folder)

    def layout(self):
        basic_layout(self)

    def requirements(self):
        self.requires("asio/[>=1.22.1 <2]", transitive_headers=True)
        self.requires("xxhash/[>=0.8.0 <1]", transitive_headers=True)

    def package_id(self):
        self.info.clear()

    def validate(self):
        check_min_cppstd(self, 20)
        # Files go through Linux calls (fdatasync, flock, getrandom).
        if self.settings.os != "Linux":
            raise ConanInvalidConfiguration(f"{self.ref} supports Linux only")

    def build(self):
        pass

    def package(self):
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        copy(self, "*.hpp", os.path.join(self.source_folder, "include"), os.path.join(self.package_folder, "include"))

    def package_info(self):
        self.cpp_info.set_property("cmake_file_name", "lockstep")
        self.cpp_info.set_property("cmake_target_name", "lockstep::lockstep")
        self.cpp_info.set_property("pkg_config_name", "lockstep")
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
        self.cpp_info.defines = ["ASIO_STANDALONE"]
        if self.settings.compiler == "clang":
            # Asio up to 1.22 does not see that clang on libstdc++ has coroutines.
            self.cpp_info.defines += ["ASIO_HAS_CO_AWAIT=1", "ASIO_HAS_STD_COROUTINE=1"]
        self.cpp_info.system_libs = ["pthread"]
