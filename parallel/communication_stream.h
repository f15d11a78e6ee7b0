// SPDX-License-Identifier: Apache-2.0
// CommunicationStream: a stream of a GPU that collectives run on beside the work of another.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "parallel/communicator.h"
#include "runtime/event.h"

namespace rankwise {

// Of one communicator and its parts, so that their collectives run in the order they were started.
class CommunicationStream {
 public:
  explicit CommunicationStream(Device device)
      : stream_(device, Stream::Mode::kExecute, Stream::Priority::kHigh), begin_(device) {}

  // What is put into the result follows the work given to `stream` so far.
  Stream& after(Stream& stream) {
    begin_.record(stream);
    begin_.hold_back(stream_);
    return stream_;
  }

  // The end of the work given so far, for one user until give_back().
  std::unique_ptr<Event> mark() {
    if (idle_.empty()) idle_.push_back(std::make_unique<Event>(stream_.device()));
    std::unique_ptr<Event> event = std::move(idle_.back());
    idle_.pop_back();
    event->record(stream_);
    return event;
  }
  void give_back(std::unique_ptr<Event> event) { idle_.push_back(std::move(event)); }

 private:
  Stream stream_;
  Event begin_;
  std::vector<std::unique_ptr<Event>> idle_;
};

// The last collective put into a communication stream, for work of `stream` to wait for.
class StreamPendingCollective : public PendingCollective {
 public:
  StreamPendingCollective(std::shared_ptr<CommunicationStream> communication, Stream& stream)
      : communication_(std::move(communication)), end_(communication_->mark()), stream_(&stream) {}

  void wait() override {
    end_->hold_back(*stream_);
    communication_->give_back(std::move(end_));
  }

 private:
  std::shared_ptr<CommunicationStream> communication_;
  std::unique_ptr<Event> end_;
  Stream* stream_;
};

}  // namespace rankwise
