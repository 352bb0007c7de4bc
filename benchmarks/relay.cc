// Carries packets between workers' namespaces at a given rate, after a given delay.
//
//     relay RATE DELAY QUEUE NAMESPACE...     bits per second, microseconds, bytes
//
// Worker i gets a TUN device eth0 in NAMESPACE i, whose other end is this process. A
// packet waits in its sender's uplink until all before it have left at RATE, travels for
// DELAY, and waits likewise in the receiver's downlink; where more than QUEUE bytes wait
// it is dropped. Worker i has the address of which the last byte is i + 1.
//
// Prints "ready" when the devices are there, and ends when standard input does: devices
// go with it.

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <queue>
#include <string>
#include <vector>

namespace {

constexpr int64_t kSecond = 1'000'000'000;
// Between two looks at devices and queues while packets wait: a fraction of the shortest
// delay, and few enough looks that they cost little. Our choice.
constexpr int64_t kTick = 200'000;
constexpr size_t kLargestPacket = 65'536;
constexpr int kDestination = 16;  // Where an IPv4 header has it.
constexpr int kPriority = -20;    // Workers that compute must not hold packets up.

int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kSecond + now.tv_nsec;
}

// One direction of a worker's link: a queue that empties at a rate. Times are ns.
class Line {
 public:
  Line(double bits_per_second, double queue_bytes)
      : nanoseconds_per_byte_(8 * kSecond / bits_per_second),
        longest_wait_(queue_bytes * nanoseconds_per_byte_) {}

  // When a packet that comes at `now` has passed; -1 if it is dropped.
  double Pass(double now, size_t bytes) {
    if (free_at_ - now > longest_wait_) return -1;
    free_at_ = std::max(free_at_, now) + bytes * nanoseconds_per_byte_;
    return free_at_;
  }

 private:
  double nanoseconds_per_byte_, longest_wait_;
  double free_at_ = 0;
};

struct Packet {
  double at;        // When it comes to the downlink, or has passed it.
  int64_t number;   // Packets of one time keep their order.
  size_t to;
  bool has_passed;
  std::string bytes;
};

struct Later {
  bool operator()(const Packet& a, const Packet& b) const {
    return a.at != b.at ? a.at > b.at : a.number > b.number;
  }
};

void Require(bool is_well, const std::string& what) {
  if (is_well) return;
  std::fprintf(stderr, "relay: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

int OpenDevice(const std::string& name) {
  const std::string path = "/run/netns/" + name;
  const int space = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  Require(space >= 0, path);
  Require(setns(space, CLONE_NEWNET) == 0, "setns " + name);
  close(space);
  const int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  Require(device >= 0, "/dev/net/tun");
  ifreq request = {};
  std::strcpy(request.ifr_name, "eth0");
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  Require(ioctl(device, TUNSETIFF, &request) == 0, "TUNSETIFF " + name);
  return device;
}

class Relay {
 public:
  Relay(double rate, int64_t delay, double queue, std::vector<int> devices)
      : delay_(delay),
        devices_(std::move(devices)),
        uplinks_(devices_.size(), Line(rate, queue)),
        downlinks_(devices_.size(), Line(rate, queue)),
        buffer_(kLargestPacket) {}

  void Run() {
    std::vector<pollfd> ends{{STDIN_FILENO, POLLIN, 0}};
    for (int device : devices_) ends.push_back({device, POLLIN, 0});
    while (true) {
      // While packets wait, looks come at ticks, many packets at a time.
      const timespec tick{0, kTick};
      if (!waiting_.empty()) nanosleep(&tick, nullptr);
      const int timeout = waiting_.empty() ? -1 : 0;
      if (poll(ends.data(), ends.size(), timeout) < 0) continue;
      if (ends[0].revents) return;
      for (size_t i = 0; i < devices_.size(); ++i)
        if (ends[i + 1].revents) Read(i);
      Forward();
    }
  }

 private:
  void Read(size_t from) {
    ssize_t size;
    while ((size = read(devices_[from], buffer_.data(), buffer_.size())) > 0) {
      const bool is_ipv4 = size >= 20 && (buffer_[0] >> 4) == 4;
      const size_t to = is_ipv4 ? buffer_[kDestination + 3] - size_t{1} : ~size_t{0};
      if (to >= devices_.size()) continue;
      const double passed = uplinks_[from].Pass(Now(), size);
      if (passed < 0) continue;
      const char* bytes = reinterpret_cast<const char*>(buffer_.data());
      waiting_.push({passed + delay_, number_++, to, false, {bytes, size_t(size)}});
    }
  }

  void Forward() {
    const double now = Now();
    while (!waiting_.empty() && waiting_.top().at <= now) {
      Packet packet = waiting_.top();
      waiting_.pop();
      if (packet.has_passed) {
        // A device that takes no more drops the packet, as a full queue does.
        if (write(devices_[packet.to], packet.bytes.data(), packet.bytes.size()) < 0)
          ++refused_;
        continue;
      }
      packet.at = downlinks_[packet.to].Pass(packet.at, packet.bytes.size());
      if (packet.at < 0) continue;
      packet.has_passed = true;
      packet.number = number_++;
      waiting_.push(std::move(packet));
    }
  }

  const int64_t delay_;
  const std::vector<int> devices_;
  std::vector<Line> uplinks_, downlinks_;
  std::vector<uint8_t> buffer_;
  std::priority_queue<Packet, std::vector<Packet>, Later> waiting_;
  int64_t number_ = 0, refused_ = 0;
};

}  // namespace

int main(int count, char** arguments) {
  if (count < 6) {
    std::fprintf(stderr, "usage: relay RATE DELAY QUEUE NAMESPACE NAMESPACE...\n");
    return 2;
  }
  std::vector<int> devices;
  for (int i = 4; i < count; ++i) devices.push_back(OpenDevice(arguments[i]));
  Require(setpriority(PRIO_PROCESS, 0, kPriority) == 0, "setpriority");
  prctl(PR_SET_TIMERSLACK, 1);
  std::puts("ready");
  std::fflush(stdout);
  const int64_t delay = std::atoll(arguments[2]) * 1000;
  Relay(std::atof(arguments[1]), delay, std::atof(arguments[3]), devices).Run();
}
