#include "common/exit_codes.hpp"

#include <gtest/gtest.h>
#include <asio/error.hpp>
#include <lockstep/core/errors.hpp>

namespace lockstep::examples {
namespace {

exit_code code_of(std::errc value) { return from_error(std::make_error_code(value)); }

TEST(exit_codes, CommandLineErrorsAreUsage) {
  EXPECT_EQ(from_cli11(0), exit_code::ok);
  for (int code = 100; code <= 127; ++code) EXPECT_EQ(from_cli11(code), exit_code::usage) << code;
}

TEST(exit_codes, SystemErrorsThatScriptsActOnHaveTheirOwnCode) {
  EXPECT_EQ(from_error({}), exit_code::ok);
  EXPECT_EQ(code_of(std::errc::address_in_use), exit_code::address_in_use);
  EXPECT_EQ(code_of(std::errc::connection_refused), exit_code::unreachable);
  EXPECT_EQ(code_of(std::errc::host_unreachable), exit_code::unreachable);
  EXPECT_EQ(code_of(std::errc::network_unreachable), exit_code::unreachable);
  EXPECT_EQ(code_of(std::errc::timed_out), exit_code::outcome_unknown);
  EXPECT_EQ(code_of(std::errc::no_space_on_device), exit_code::failure);
  EXPECT_EQ(from_error({ECONNREFUSED, std::system_category()}), exit_code::unreachable);
}

TEST(exit_codes, ResolverErrorsAreUnreachable) {
  EXPECT_EQ(from_error(asio::error::host_not_found), exit_code::unreachable);
  EXPECT_EQ(from_error(asio::error::host_not_found_try_again), exit_code::unreachable);
  EXPECT_EQ(from_error(asio::error::no_data), exit_code::unreachable);
  EXPECT_EQ(from_error(asio::error::service_not_found), exit_code::unreachable);
}

TEST(exit_codes, LibraryErrorsThatScriptsActOnHaveTheirOwnCode) {
  EXPECT_EQ(from_error(errc::timed_out), exit_code::outcome_unknown);
  EXPECT_EQ(from_error(errc::log_locked), exit_code::data_dir_locked);
  EXPECT_EQ(from_error(errc::corrupt), exit_code::corruption);
  EXPECT_EQ(from_error(errc::wrong_cluster), exit_code::unreachable);
  EXPECT_EQ(from_error(errc::diverged), exit_code::failure);
}

TEST(exit_codes, ErrorsNameTheThing) {
  const auto in_use = cannot_listen("127.0.0.1:7878", std::make_error_code(std::errc::address_in_use));
  EXPECT_STREQ(in_use.what(), "cannot listen on 127.0.0.1:7878: address already in use");
  EXPECT_EQ(in_use.code(), exit_code::address_in_use);

  const auto refused = cannot_connect("[::1]:1", std::make_error_code(std::errc::connection_refused));
  EXPECT_STREQ(refused.what(), "cannot connect to [::1]:1: connection refused");
  EXPECT_EQ(refused.code(), exit_code::unreachable);
  EXPECT_EQ(cannot_connect("h:1", std::make_error_code(std::errc::timed_out)).code(), exit_code::unreachable);

  const auto locked = data_dir_locked("/tmp/leader", 812);
  EXPECT_STREQ(locked.what(), "data directory /tmp/leader is locked by pid 812");
  EXPECT_EQ(locked.code(), exit_code::data_dir_locked);
  EXPECT_STREQ(data_dir_locked("/tmp/leader", 0).what(), "data directory /tmp/leader is locked by another process");
}

TEST(exit_codes, ListeningOnAForeignAddressIsUsage) {
  EXPECT_EQ(cannot_listen("192.0.2.1:1", std::make_error_code(std::errc::address_not_available)).code(),
            exit_code::usage);
}

TEST(exit_codes, AbbreviationsKeepTheirCapitals) {
  EXPECT_EQ(describe(std::make_error_code(std::errc::io_error)).substr(0, 5), "input");
  EXPECT_EQ(describe(std::error_code(ENOTSUP, std::generic_category())), "operation not supported");
  EXPECT_EQ(describe(std::error_code(EMULTIHOP, std::generic_category())), "multihop attempted");
  EXPECT_EQ(describe(std::error_code(ESRMNT, std::generic_category())), "srmount error");
  EXPECT_EQ(describe(std::error_code(EL2HLT, std::generic_category())), "level 2 halted");
  EXPECT_EQ(describe(std::error_code(EBADRQC, std::generic_category())), "invalid request code");
  EXPECT_EQ(describe(std::error_code(ENOCSI, std::generic_category())), "no CSI structure available");
}

TEST(exit_codes, HelpListsEveryCodeOnOneLine) {
  const std::string help = exit_code_help();
  for (const auto& [code, meaning] : exit_code_table) {
    EXPECT_NE(help.find(std::to_string(static_cast<int>(code))), std::string::npos);
    EXPECT_NE(help.find(std::string(meaning) + "\n"), std::string::npos);
  }
}

}  // namespace
}  // namespace lockstep::examples
