// uWebSockets, the C++ reference: its echo, without its limits on what a message and a backlog may be.
//
// usage: echo-uwebsockets FORM ADDRESS. With the form "publish", what one sends is published to everyone. It has no idle
// timeout, which would be a timer for all.

#include <iostream>
#include <limits>
#include <string>
#include <string_view>

#include "App.h"

struct Nothing {};

int main(int count, char **arguments) {
    std::string address = count > 2 ? arguments[2] : "";
    auto colon = address.rfind(':');
    if (colon == std::string::npos) {
        std::cerr << "usage: echo-uwebsockets FORM ADDRESS\n";
        return 2;
    }
    std::string host = address.substr(0, colon);
    int port = std::stoi(address.substr(colon + 1));

    bool publish = arguments[1] == std::string_view("publish");

    uWS::App app;
    uWS::App::WebSocketBehavior<Nothing> behavior;
    behavior.compression = uWS::DISABLED;
    behavior.maxPayloadLength = 64 * 1024 * 1024;
    behavior.maxBackpressure = std::numeric_limits<unsigned int>::max();
    behavior.idleTimeout = 0;
    if (publish) {
        behavior.open = [](auto *socket) { socket->subscribe("everyone"); };
        behavior.message = [&app](auto *, std::string_view message, uWS::OpCode kind) {
            app.publish("everyone", message, kind);
        };
    } else {
        behavior.message = [](auto *socket, std::string_view message, uWS::OpCode kind) {
            socket->send(message, kind);
        };
    }
    app.ws<Nothing>("/*", std::move(behavior))
        .listen(host, port, [&](auto *listening) {
            if (!listening) {
                std::cerr << "cannot listen on " << address << "\n";
                std::exit(1);
            }
        })
        .run();
}
