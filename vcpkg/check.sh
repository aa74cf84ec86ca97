#!/usr/bin/env bash
# What can be checked of the port without vcpkg (see README.md). Exits 77 where python3 is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v python3 >/dev/null || {
  echo "skipped: python3 is not installed"
  exit 77
}
python3 - <<'PYTHON'
import json
import re
import sys

port = "vcpkg/ports/lockstep/"
manifest = json.load(open(port + "vcpkg.json"))
portfile = open(port + "portfile.cmake").read()
rules = open("CMakeLists.txt").read() + open("cmake/LockstepInstall.cmake").read()
problems = []


def expect(condition, problem):
    if not condition:
        problems.append(problem)


expect(manifest.get("name") == "lockstep", "vcpkg.json: name is the port's folder")
expect(manifest.get("license") == "BSL-1.0", "vcpkg.json: license")
order = ["name", "version", "description", "license", "supports", "dependencies"]
expect(list(manifest) == order, f"vcpkg.json: fields in the order {order}")
names = [d if isinstance(d, str) else d["name"] for d in manifest.get("dependencies", [])]
expect(names == sorted(names), "vcpkg.json: dependencies are sorted")
for name in ("asio", "vcpkg-cmake", "vcpkg-cmake-config", "xxhash"):
    expect(name in names, f"vcpkg.json: dependency {name} is missing")

for option in re.findall(r"-D(LOCKSTEP_\w+)", portfile):
    expect(f"option({option} " in rules, f"portfile.cmake: CMakeLists.txt has no option {option}")
folder = re.search(r"CONFIG_PATH (\S+)\)", portfile)
installed = re.search(r'lockstep_cmake_dir "\$\{CMAKE_INSTALL_DATADIR\}/(\S+)"', rules)
expect(folder and installed and folder[1] == "share/" + installed[1], "portfile.cmake: CONFIG_PATH is not where the package is installed")
expect("find_package(lockstep" in open(port + "usage").read(), "usage: no find_package")

for problem in problems:
    print(problem, file=sys.stderr)
if problems:
    sys.exit(1)
print("the vcpkg port is consistent with the build")
PYTHON
