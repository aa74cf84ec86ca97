#include "raft_replication/http.hpp"

#include "common/exit_codes.hpp"
#include "raft_replication/page.hpp"
#include "raft_replication/tables.hpp"

#include <restinio/all.hpp>

#include <list>

namespace lockstep::raft_replication {

using namespace std::chrono_literals;
using json = nlohmann::ordered_json;

class http_server::implementation {
 public:
  implementation(real::env& env, replica& of, const address& where)
      : env_(env),
        replica_(of),
        tasks_(env.get_executor()),
        server_(restinio::external_io_context(static_cast<asio::io_context&>(env.get_executor().context())),
                settings(where)) {
    try {
      server_.open_sync();
    } catch (const std::system_error& error) {
      throw examples::cannot_listen(where.to_string(), error.code());
    }
  }

  awaitable<void> close() {
    server_.close_sync();
    tasks_.cancel();
    co_await tasks_.join();
    end_streams();
  }

  [[nodiscard]] const address& local_address() const noexcept { return local_; }

 private:
  using traits = restinio::default_single_thread_traits_t;
  using request_handle = restinio::request_handle_t;

  struct viewer {
    restinio::response_builder_t<restinio::chunked_output_t> response;
    std::shared_ptr<bool> gone = std::make_shared<bool>(false);
  };

  restinio::server_settings_t<traits> settings(const address& where) {
    restinio::server_settings_t<traits> made;
    made.address(where.host)
        .port(where.port)
        .read_next_http_message_timelimit(10s)
        .handle_request_timeout(24h)  // a page may stay open
        .acceptor_post_bind_hook([this](asio::ip::tcp::acceptor& bound) {
          const auto at = bound.local_endpoint();
          local_ = address(at.address().to_string(), at.port());
        })
        .request_handler([this](const request_handle& asked) { return answer(asked); });
    return made;
  }

  restinio::request_handling_status_t answer(const request_handle& asked) {
    const std::string_view path(asked->header().path().data(), asked->header().path().size());
    const auto method = asked->header().method();
    if (method != restinio::http_method_get() && method != restinio::http_method_head()) {
      return respond(asked, restinio::status_method_not_allowed(), "text/plain", "GET only\n");
    }
    if (path == "/") {
      tasks_.spawn(send_page(asked));
      return restinio::request_accepted();
    }
    if (path == "/events") return view(asked);
    if (path == "/metrics") {
      return respond(asked, restinio::status_ok(), "text/plain; version=0.0.4; charset=utf-8", metrics_text(replica_));
    }
    if (path == "/status") {
      return respond(asked, restinio::status_ok(), "application/json", json_text(replica_.status(), 2) + "\n");
    }
    if (path == "/healthz") return respond(asked, restinio::status_ok(), "text/plain", "ok\n");
    if (path == "/readyz") {
      const std::string why_not = replica_.not_ready();
      if (why_not.empty()) return respond(asked, restinio::status_ok(), "text/plain", "ready\n");
      return respond(asked, restinio::status_service_unavailable(), "text/plain", why_not + "\n");
    }
    return respond(asked, restinio::status_not_found(), "text/plain", "not found\n");
  }

  static restinio::request_handling_status_t respond(const request_handle& asked, restinio::http_status_line_t status,
                                                     const char* type, std::string body) {
    return asked->create_response(std::move(status))
        .append_header(restinio::http_field::content_type, type)
        .append_header(restinio::http_field::cache_control, "no-store")
        .set_body(std::move(body))
        .done();
  }

  restinio::request_handling_status_t view(const request_handle& asked) {
    viewer opened{asked->create_response<restinio::chunked_output_t>()};
    opened.response.append_header(restinio::http_field::content_type, "text/event-stream")
        .append_header(restinio::http_field::cache_control, "no-store");
    opened.response.flush();
    viewers_.push_back(std::move(opened));
    if (!std::exchange(feeding_, true)) tasks_.spawn(feed());
    return restinio::request_accepted();
  }

  // One page's failure is not the others'.
  awaitable<void> send_page(request_handle asked) {
    std::string failure;
    try {
      std::string page = co_await page_of_now();
      respond(asked, restinio::status_ok(), "text/html; charset=utf-8", std::move(page));
    } catch (const std::exception& error) {
      failure = error.what();
    }
    if (!failure.empty()) respond(asked, restinio::status_internal_server_error(), "text/plain", failure + "\n");
  }

  // It shows the group as it is now at once, before the stream has begun.
  awaitable<std::string> page_of_now() {
    const json told = co_await group();
    std::string now = json_text(told);
    for (std::size_t at = 0; (at = now.find('<', at)) != std::string::npos;) now.replace(at, 1, "\\u003c");
    std::string page = page_html;
    constexpr std::string_view place = "null /* the group */";
    page.replace(page.find(place), place.size(), now);
    co_return page;
  }

  awaitable<json> group() {
    json told;
    told["nodes"] = co_await replica_.group_status(400ms);
    told["seen_by"] = replica_.options().id;
    json events = json::array();
    for (const group_event& each : replica_.events()) {
      json event;
      event["ms"] = std::chrono::duration_cast<std::chrono::milliseconds>(each.when.time_since_epoch()).count();
      event["text"] = each.text;
      events.push_back(std::move(event));
    }
    told["events"] = std::move(events);
    co_return told;
  }

  // While somebody looks: four times a second, since lags change all the time. A failure ends the streams, and the
  // pages come again.
  awaitable<void> feed() {
    try {
      real::timer timer(env_);
      while (!viewers_.empty()) {
        const json told = co_await group();
        send("data: " + json_text(told) + "\n\n");
        timer.expires_after(250ms);
        if (co_await timer.wait()) break;
      }
    } catch (const std::exception&) {
      end_streams();
    }
    feeding_ = false;
  }

  void end_streams() {
    for (viewer& each : viewers_) each.response.done();
    viewers_.clear();
  }

  void send(const std::string& event) {
    std::erase_if(viewers_, [](const viewer& each) { return *each.gone; });
    for (viewer& each : viewers_) {
      each.response.append_chunk(event);
      // It may be told when nobody is left to hear of it.
      each.response.flush([gone = each.gone](const auto& failed) { *gone = *gone || failed; });
    }
  }

  real::env& env_;
  replica& replica_;
  address local_;
  std::list<viewer> viewers_;
  bool feeding_ = false;
  task_group tasks_;
  restinio::http_server_t<traits> server_;
};

http_server::http_server(real::env& env, replica& of, const address& where)
    : implementation_(std::make_unique<implementation>(env, of, where)) {}

http_server::~http_server() = default;

awaitable<void> http_server::close() { return implementation_->close(); }

const address& http_server::local_address() const { return implementation_->local_address(); }

}  // namespace lockstep::raft_replication
