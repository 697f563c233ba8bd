// uWebSockets, the C++ reference: its echo, without its limits on what a message and a backlog may be.
//
// usage: echo-uwebsockets FORM ADDRESS; there is one form. It has no idle timeout, which would be a timer for all.

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

    uWS::App::WebSocketBehavior<Nothing> echo;
    echo.compression = uWS::DISABLED;
    echo.maxPayloadLength = 64 * 1024 * 1024;
    echo.maxBackpressure = std::numeric_limits<unsigned int>::max();
    echo.idleTimeout = 0;
    echo.message = [](auto *socket, std::string_view message, uWS::OpCode kind) {
        socket->send(message, kind);
    };
    uWS::App()
        .ws<Nothing>("/*", std::move(echo))
        .listen(host, port, [&](auto *listening) {
            if (!listening) {
                std::cerr << "cannot listen on " << address << "\n";
                std::exit(1);
            }
        })
        .run();
}
