// The floor: the least that any gateway must do with a batch. Receives it, inflates it (ISA-L), reads all of its JSON
// (simdjson), answers a constant. It knows no key, checks no value and keeps nothing.
//
// WORK=receive stops after receiving, WORK=inflate after inflating.
#include <arpa/inet.h>
#include <isa-l/igzip_lib.h>
#include <netinet/tcp.h>
#include <simdjson.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace {

constexpr size_t kInflatedMax = 8 << 20;

std::string_view work = "scan";
std::vector<char> room(kInflatedMax + simdjson::SIMDJSON_PADDING);
simdjson::dom::parser parser;

size_t inflated(std::string_view body) {
    static inflate_state state;
    isal_inflate_init(&state);
    state.crc_flag = ISAL_GZIP;
    state.next_in = reinterpret_cast<uint8_t *>(const_cast<char *>(body.data()));
    state.avail_in = body.size();
    state.next_out = reinterpret_cast<uint8_t *>(room.data());
    state.avail_out = kInflatedMax;
    return isal_inflate(&state) == ISAL_DECOMP_OK ? state.total_out : 0;
}

// Returns how many events there are, -1 for what is no batch.
long judged(std::string_view body) {
    if (work == "receive") return 0;
    const size_t length = inflated(body);
    if (length == 0) return -1;
    if (work == "inflate") return 0;
    simdjson::dom::element document;
    if (parser.parse(room.data(), length, false).get(document)) return -1;
    simdjson::dom::array events;
    if (document["events"].get(events)) return -1;
    return static_cast<long>(events.size());
}

struct Connection {
    std::string read;
};

// Takes one request off the front and answers it; false where it has not all come.
bool answered(int socket, std::string &read) {
    const size_t head = read.find("\r\n\r\n");
    if (head == std::string::npos) return false;
    const char *length_at = strcasestr(read.c_str(), "\r\ncontent-length:");
    const size_t length = length_at ? strtoul(length_at + 17, nullptr, 10) : 0;
    if (read.size() < head + 4 + length) return false;
    const long events = judged(std::string_view(read).substr(head + 4, length));
    char body[160], answer[320];
    const int body_bytes = snprintf(body, sizeof body, "{\"accepted\":%ld}", events);
    const int bytes = snprintf(answer, sizeof answer,
                               "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
                               events < 0 ? "400 Bad Request" : "200 OK", body_bytes, body);
    if (write(socket, answer, bytes) != bytes) return false;
    read.erase(0, head + 4 + length);
    return true;
}

}  // namespace

int main() {
    if (const char *wanted = getenv("WORK")) work = wanted;
    const int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(atoi(getenv("PORT")));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listening, reinterpret_cast<sockaddr *>(&address), sizeof address) || listen(listening, 1024)) {
        perror("floor");
        return 1;
    }
    const int poll = epoll_create1(EPOLL_CLOEXEC);
    epoll_event listened{EPOLLIN, {.fd = listening}};
    epoll_ctl(poll, EPOLL_CTL_ADD, listening, &listened);
    std::unordered_map<int, Connection> connections;
    std::vector<char> chunk(1 << 16);
    std::vector<epoll_event> events(256);
    for (;;) {
        const int ready = epoll_wait(poll, events.data(), events.size(), -1);
        for (int i = 0; i < ready; ++i) {
            const int socket = events[i].data.fd;
            if (socket == listening) {
                const int accepted = accept4(listening, nullptr, nullptr, SOCK_CLOEXEC);
                setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                epoll_event readable{EPOLLIN, {.fd = accepted}};
                epoll_ctl(poll, EPOLL_CTL_ADD, accepted, &readable);
                connections[accepted];
                continue;
            }
            const ssize_t bytes = recv(socket, chunk.data(), chunk.size(), 0);
            if (bytes <= 0) {
                connections.erase(socket);
                close(socket);
                continue;
            }
            std::string &read = connections[socket].read;
            read.append(chunk.data(), bytes);
            while (answered(socket, read)) {
            }
        }
    }
}
