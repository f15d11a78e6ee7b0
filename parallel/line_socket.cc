// SPDX-License-Identifier: Apache-2.0
#include "parallel/line_socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include "runtime/errors.h"

namespace rankwise {
namespace {

constexpr size_t kLongestLine = 4096;
constexpr size_t kMostUnsent = 65536;
constexpr int kSocketType = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;

int port_of(const sockaddr_storage& address) {
  return ntohs(address.ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                   : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

// Listens on every address of `family`, -1 with errno otherwise. IPv6 takes IPv4 along.
Descriptor listen_on(int family) {
  Descriptor result(socket(family, kSocketType, 0));
  sockaddr_storage any{};  // zero: any address, any port
  any.ss_family = static_cast<sa_family_t>(family);
  const int off = 0;
  if (family == AF_INET6) setsockopt(result.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
  const socklen_t length = family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  const bool listens = result.is_open() &&
                       bind(result.get(), reinterpret_cast<sockaddr*>(&any), length) == 0 &&
                       listen(result.get(), SOMAXCONN) == 0;
  return listens ? std::move(result) : Descriptor();
}

}  // namespace

Descriptor::~Descriptor() {
  if (number_ >= 0) close(number_);
}

LineSocket::LineSocket(Descriptor connection) : connection_(std::move(connection)) {
  const int on = 1;
  setsockopt(descriptor(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

LineSocket LineSocket::connect(const std::string& address, int port, int timeout_ms) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return {};
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
  Descriptor connection(socket(found->ai_family, kSocketType, 0));
  if (!connection.is_open()) return {};
  if (::connect(connection.get(), found->ai_addr, found->ai_addrlen) != 0) {
    if (errno != EINPROGRESS) return {};
    pollfd ready = {connection.get(), POLLOUT, 0};
    if (poll(&ready, 1, timeout_ms) != 1) return {};
    int error = 0;
    socklen_t length = sizeof(error);
    getsockopt(connection.get(), SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) return {};
  }
  return LineSocket(std::move(connection));
}

void LineSocket::send(const std::string& line) {
  if (unsent_.size() + line.size() < kMostUnsent) unsent_ += line + "\n";
  flush();
}

// A failure shows in receive().
void LineSocket::flush() {
  if (!is_open() || unsent_.empty()) return;
  const ssize_t sent = ::send(descriptor(), unsent_.data(), unsent_.size(), MSG_NOSIGNAL);
  if (sent > 0) unsent_.erase(0, static_cast<size_t>(sent));
}

std::vector<std::string> LineSocket::receive() {
  std::array<char, kLongestLine> part;
  ssize_t got = -1;
  while (is_open() && (got = recv(descriptor(), part.data(), part.size(), 0)) > 0) {
    received_.append(part.data(), static_cast<size_t>(got));
    if (received_.size() > kMostUnsent) break;
  }
  const bool nothing_yet = got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
  if (got <= 0 && !nothing_yet) connection_ = Descriptor();

  std::vector<std::string> lines;
  size_t end;
  while ((end = received_.find('\n')) <= kLongestLine) {
    lines.push_back(received_.substr(0, end));
    received_.erase(0, end + 1);
  }
  if (received_.size() > kLongestLine) connection_ = Descriptor();
  return lines;
}

LineListener::LineListener() : listening_(listen_on(AF_INET6)) {
  if (!listening_.is_open()) listening_ = listen_on(AF_INET);
  sockaddr_storage bound{};
  socklen_t length = sizeof(bound);
  if (!listening_.is_open() ||
      getsockname(descriptor(), reinterpret_cast<sockaddr*>(&bound), &length) != 0) {
    throw CommunicationError(fmt::format("cannot listen for TCP: {}", std::strerror(errno)));
  }
  port_ = port_of(bound);
}

LineSocket LineListener::accept() {
  Descriptor connection(accept4(descriptor(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  return connection.is_open() ? LineSocket(std::move(connection)) : LineSocket();
}

std::vector<std::string> local_addresses() {
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return {};
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(first, freeifaddrs);
  std::vector<std::string> addresses;
  for (const ifaddrs* i = first; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr || (i->ifa_flags & IFF_UP) == 0) continue;
    const int family = i->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(*i->ifa_addr);
    // Means nothing without the name of an interface, which differs from host to host.
    if (family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&v6.sin6_addr)) continue;
    std::array<char, NI_MAXHOST> text{};
    const socklen_t length = family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
    if (getnameinfo(i->ifa_addr, length, text.data(), text.size(), nullptr, 0, NI_NUMERICHOST) == 0)
      addresses.emplace_back(text.data());
  }
  std::ranges::stable_partition(addresses, is_loopback);
  return addresses;
}

bool is_loopback(const std::string& address) {
  return address.starts_with("127.") || address == "::1";
}

}  // namespace rankwise
