// Sends batches to one server and reads every answer: only a 200 that says ANSWER is good.
//
// load PORT BODIES PATH ANSWER CONNECTIONS SECONDS RATE KEY
//
// BODIES is a file of bodies, each after its length (4 bytes, little-endian), sent in turn. RATE 0 sends as fast as the
// answers come; otherwise so many a second, and latency counts from when a request was due, not from when it could be
// sent. After SECONDS nothing new is sent, but all answers are awaited, so that good = stored. Prints one line of JSON.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::duration;

// An answer that does not come for so long counts as bad, and ends the run.
constexpr double kPatienceSeconds = 20;
// Waking a sleeper is paid by whoever sends to it: 10 microseconds on a virtual machine, and only to servers that are
// slower than this program. So it never sleeps in wait of an answer: it looks, and pauses where there is none.
constexpr useconds_t kPauseMicroseconds = 200;

struct Connection {
    int socket = -1;
    std::string read;
    Clock::time_point due;
};

struct Tally {
    long good = 0, bad = 0;
    std::vector<double> seconds;
    std::string first_bad;
};

std::vector<std::string> requests_of(const char *bodies, const std::string &path, const std::string &key) {
    std::ifstream file(bodies, std::ios::binary);
    std::vector<std::string> requests;
    for (unsigned char size[4]; file.read(reinterpret_cast<char *>(size), 4);) {
        std::string body(size[0] | size[1] << 8 | size[2] << 16 | size[3] << 24, '\0');
        file.read(body.data(), body.size());
        requests.push_back(
            "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + key +
            "\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: " +
            std::to_string(body.size()) + "\r\n\r\n" + body);
    }
    return requests;
}

int connected(int port) {
    const int made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(made, reinterpret_cast<sockaddr *>(&address), sizeof address)) {
        perror("load: connect");
        exit(2);
    }
    setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return made;
}

// Whether an answer is whole; every server here says its length.
bool whole(const std::string &read) {
    const size_t head = read.find("\r\n\r\n");
    if (head == std::string::npos) return false;
    const char *length_at = strcasestr(read.c_str(), "\r\ncontent-length:");
    return read.size() >= head + 4 + (length_at ? strtoul(length_at + 17, nullptr, 10) : 0);
}

double quantile(std::vector<double> &sorted, double share) {
    if (sorted.empty()) return 0;
    return sorted[std::min(sorted.size() - 1, static_cast<size_t>(share * sorted.size()))];
}

}  // namespace

int main(int argc, char **argv) {
    if (argc != 9) {
        fprintf(stderr, "usage: load PORT BODIES PATH ANSWER CONNECTIONS SECONDS RATE KEY\n");
        return 2;
    }
    const std::vector<std::string> requests = requests_of(argv[2], argv[3], argv[8]);
    const std::string accepted = argv[4];
    const double seconds = atof(argv[6]), rate = atof(argv[7]);
    const int poll = epoll_create1(EPOLL_CLOEXEC);
    std::vector<Connection> connections(atoi(argv[5]));
    std::vector<Connection *> idle;
    for (Connection &each : connections) {
        each.socket = connected(atoi(argv[1]));
        epoll_event readable{EPOLLIN, {.ptr = &each}};
        epoll_ctl(poll, EPOLL_CTL_ADD, each.socket, &readable);
        idle.push_back(&each);
    }
    Tally tally;
    const Clock::time_point began = Clock::now();
    const Clock::time_point end = began + std::chrono::duration_cast<Clock::duration>(duration<double>(seconds));
    Clock::time_point last_answer = began;
    std::deque<Clock::time_point> due;
    long sent = 0, planned = 0;
    std::vector<char> chunk(1 << 16);
    std::vector<epoll_event> events(256);
    for (;;) {
        const Clock::time_point now = Clock::now();
        if (rate > 0) {
            for (; now < end; ++planned) {
                const Clock::time_point next =
                    began + std::chrono::duration_cast<Clock::duration>(duration<double>(planned / rate));
                if (next > now) break;
                due.push_back(next);
            }
        }
        while (!idle.empty() && (rate > 0 ? !due.empty() : now < end)) {
            Connection *each = idle.back();
            idle.pop_back();
            each->due = now;
            if (rate > 0) {
                each->due = due.front();
                due.pop_front();
            }
            const std::string &request = requests[sent++ % requests.size()];
            if (write(each->socket, request.data(), request.size()) != static_cast<ssize_t>(request.size())) {
                perror("load: write");
                return 2;
            }
        }
        if (idle.size() == connections.size() && now >= end && due.empty()) break;
        if (duration<double>(now - last_answer).count() > kPatienceSeconds + (rate > 0 ? 1 / rate : 0)) {
            tally.bad += connections.size() - idle.size();
            tally.first_bad = "no answer";
            break;
        }
        const int ready = epoll_wait(poll, events.data(), events.size(), 0);
        if (ready == 0) usleep(kPauseMicroseconds);
        for (int i = 0; i < ready; ++i) {
            Connection *each = static_cast<Connection *>(events[i].data.ptr);
            const ssize_t bytes = recv(each->socket, chunk.data(), chunk.size(), 0);
            if (bytes <= 0) {
                fprintf(stderr, "load: the server closed a connection\n");
                return 3;
            }
            each->read.append(chunk.data(), bytes);
            if (!whole(each->read)) continue;
            last_answer = Clock::now();
            tally.seconds.push_back(duration<double>(last_answer - each->due).count());
            if (each->read.compare(0, 12, "HTTP/1.1 200") == 0 && each->read.find(accepted) != std::string::npos) {
                ++tally.good;
            } else if (tally.bad++ == 0) {
                tally.first_bad = each->read.substr(0, each->read.find('\r'));
            }
            each->read.clear();
            idle.push_back(each);
        }
    }
    std::sort(tally.seconds.begin(), tally.seconds.end());
    printf("{\"good\":%ld,\"bad\":%ld,\"first_bad\":\"%s\",\"seconds\":%.3f,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f}\n",
           tally.good, tally.bad, tally.first_bad.c_str(), duration<double>(last_answer - began).count(),
           1e3 * quantile(tally.seconds, 0.5), 1e3 * quantile(tally.seconds, 0.99), 1e3 * quantile(tally.seconds, 1.0));
}
