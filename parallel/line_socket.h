// SPDX-License-Identifier: Apache-2.0
// LineSocket: a TCP connection that carries lines of text and never blocks.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace rankwise {

class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor();

  int get() const { return number_; }
  bool is_open() const { return number_ >= 0; }

 private:
  int number_;
};

class LineSocket {
 public:
  LineSocket() = default;
  explicit LineSocket(Descriptor connection);
  // `address` is numeric, of IPv4 or IPv6. Not open when there is no answer in time.
  static LineSocket connect(const std::string& address, int port, int timeout_ms);

  // What the system does not take now is kept for flush(). A line for a peer that has long stopped
  // reading is dropped.
  void send(const std::string& line);
  void flush();
  // The lines that have arrived whole since the last call, without their ends. After the last one
  // of a peer that is gone, or that sends anything but short lines, the socket is no longer open.
  std::vector<std::string> receive();
  bool is_open() const { return connection_.is_open(); }
  int descriptor() const { return connection_.get(); }

 private:
  Descriptor connection_;
  std::string received_;
  std::string unsent_;
};

class LineListener {
 public:
  // On a free port of all addresses. CommunicationError with the system's reason.
  LineListener();
  int port() const { return port_; }
  LineSocket accept();  // not open when nobody waits
  int descriptor() const { return listening_.get(); }

 private:
  Descriptor listening_;
  int port_ = 0;
};

// All addresses of this host, those that only it reaches (loopback) first.
std::vector<std::string> local_addresses();
bool is_loopback(const std::string& address);

}  // namespace rankwise
