// Feeds broken payloads to the decoder of wire_code.h; built with sanitizers by
// test_wire_native.py, which reads what this prints. Every payload is in a buffer of
// exactly its length, so that the sanitizer sees a read beyond it.

#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "wire_sum.h"

using namespace tem_tf;  // NOLINT: a test.
using Words = std::vector<uint32_t>;

namespace {

std::mt19937_64 generator;

int64_t below(int64_t limit) { return generator() % static_cast<uint64_t>(limit); }

[[noreturn]] void fail(const char* law) {
  std::printf("law broken: %s\n", law);
  std::exit(1);
}

constexpr int kTypes = wire::kSign + 1;

// Any ascending ones are levels of few bits, as far as safety goes.
wire::ValueCode code_of(int type) {
  static const std::vector<float> levels = [] {
    std::vector<float> ascending(wire::kMostLevels);
    for (int i = 0; i < wire::kMostLevels; ++i) ascending[i] = 0.03f * i - 0.9f;
    return ascending;
  }();
  wire::ValueCode code;
  code.type = type;
  code.levels = levels.data();
  return code;
}

struct Expectation {
  int64_t size, block;
  int value_type;
  int64_t shared_count;
};

struct Sent {
  Words words;
  Expectation expectation;
};

// Encodes a random message and decodes it again.
Sent make() {
  const int64_t sizes[] = {1, 2, 31, 32, 33, 1000, 100000, (int64_t{1} << 31) - 1};
  const int64_t size = sizes[below(8)];
  const int64_t most = std::min<int64_t>(size, 600);
  const int64_t count = below(4) == 0 ? (below(2) ? most : 0) : below(most + 1);
  std::set<int32_t> chosen;
  const int64_t run = below(3) == 0 ? below(size - count + 1) : -1;
  while (static_cast<int64_t>(chosen.size()) < count) {
    chosen.insert(run >= 0 ? run + chosen.size() : below(size));
  }
  std::vector<int32_t> indices(chosen.begin(), chosen.end());
  std::vector<float> values(count), block(below(4));
  for (float& x : values) x = std::ldexp(below(2000) - 1000.0f, below(60) - 30);
  for (float& x : block) x = below(100);
  const bool shared = below(8) == 0;
  const int type = below(kTypes);
  wire::ValueCode code = code_of(type);
  std::vector<float> scales((count + wire::kGroup - 1) / wire::kGroup);
  if (wire::few_bits(type) != 0) {
    code.scale = 1 + below(wire::kGreatestSpread);
    for (float& x : scales) x = below(5) == 0 ? 0.0f : std::ldexp(1.0f, below(240) - 118);
  }

  const wire::Header header =
      wire::plan(values.data(), indices.data(), shared, count, size, block.size(), code,
                 below(4));
  std::vector<float> dense(header.index_code == wire::kAll ? size : 0);
  Sent sent{Words(header.words),
            {size, static_cast<int64_t>(block.size()), type, shared ? count : -1}};
  wire::write(header, values.data(), scales.data(), indices.data(), count, block.data(),
              dense.data(), sent.words.data());
  return sent;
}

Words mutated(const Sent& sent, const Sent& other) {
  Words words = sent.words;
  const auto edit_header = [&words] {
    if (words.size() < 6) return;
    const uint32_t values[] = {0, 1, 0x7fffffffu, 0x80000000u, ~0u,
                               static_cast<uint32_t>(words.size())};
    uint32_t& word = words[below(6)];
    switch (below(3)) {
      case 0: word = values[below(6)]; break;
      case 1: word += below(9) - 4; break;
      default: word ^= 0xffu << (8 * below(4)); break;
    }
  };
  switch (below(7)) {
    case 0:
    case 1:
      for (int64_t flips = 1 + below(8); flips > 0 && !words.empty(); --flips) {
        words[below(words.size())] ^= 1u << below(32);
      }
      break;
    case 2: words.resize(below(words.size() + 1)); break;
    case 3:
      for (int64_t more = 1 + below(9); more > 0; --more) words.push_back(generator());
      if (below(2)) words[1] = words.size();  // Not padding: part of the payload.
      break;
    case 4: edit_header(); break;
    case 5: {  // The start of one, the end of another.
      const int64_t cut = below(words.size() + 1);
      words.resize(cut);
      const int64_t from = std::min<int64_t>(cut, other.words.size());
      words.insert(words.end(), other.words.begin() + from, other.words.end());
      break;
    }
    default:  // Two edits that may agree with one another.
      edit_header();
      if (words.size() > 1 && below(2)) words[1] = words.size();
      if (words.size() > 6) words[6 + below(words.size() - 6)] = generator();
      break;
  }
  return words;
}

// Adds what was accepted up in two variables, of which either may be empty: each entry
// once, in its place. `indices` are the shared ones or those that were decoded.
void sum(const wire::Header& header, const uint32_t* words, const float* values,
         const int32_t* indices) {
  const int64_t first = below(header.size + 1), second = header.size - first;
  std::unique_ptr<float[]> sums[] = {std::unique_ptr<float[]>(new float[first]()),
                                     std::unique_ptr<float[]>(new float[second]())};
  if (header.index_code == wire::kAll) {
    wire::add_stretch(header, words, 0, first, sums[0].get());
    wire::add_stretch(header, words, first, second, sums[1].get());
  } else {
    wire::Places places;
    places.add(sums[0].get(), first);
    places.add(sums[1].get(), second);
    wire::add_entries(header, words, indices, places);
  }
  for (int64_t i = 0; i < header.values(); ++i) {
    const int64_t at = indices[i];
    const float got = at < first ? sums[0][at] : sums[1][at - first];
    if (wire::bits_of(got) != wire::bits_of(0.0f + values[i]) && got == got) {
      fail("every entry is added in its place");
    }
  }
}

// Decodes; returns why it was refused, or nothing. What is accepted must keep the laws.
wire::Refusal decode(const Words& words, const Expectation& expected) {
  const int64_t length = words.size();
  std::unique_ptr<uint32_t[]> exact(new uint32_t[length]);
  std::copy(words.begin(), words.end(), exact.get());
  wire::Header header;
  wire::Refusal why =
      wire::read_header(exact.get(), length, expected.size, expected.block,
                        code_of(expected.value_type), expected.shared_count, &header);
  if (!why.empty()) return why;
  if (header.words > length) fail("a payload is no longer than what was received");
  if (header.count > header.size) fail("no more entries than the vector has");
  const bool shared = header.index_code == wire::kShared;
  std::unique_ptr<float[]> values(new float[header.values()]);
  std::unique_ptr<int32_t[]> indices(new int32_t[shared ? 0 : header.values()]);
  std::unique_ptr<float[]> block(new float[header.block]);
  why = wire::read_body(header, exact.get(), values.get(), indices.get(), block.get());
  if (!why.empty()) return why;
  const bool short_enough = header.size <= 100000;
  if (shared) {
    std::vector<int32_t> known(header.count);  // As many as the vector has.
    for (int64_t i = 0; i < header.count; ++i) known[i] = header.size - 1 - i;
    if (short_enough) sum(header, exact.get(), values.get(), known.data());
    return why;
  }
  if (!wire::ascending(indices.get(), header.values(), header.size)) {
    fail("indices are ascending and in range");
  }
  if (short_enough) sum(header, exact.get(), values.get(), indices.get());
  // There is one way only to write indices in a code: writing again gives the words.
  const int64_t index_words = header.words - wire::kHeaderWords - header.block -
                              wire::value_words(header.values(), header.value.type);
  Words again(index_words);
  if (header.index_code == wire::kGaps) {
    wire::write_gaps(indices.get(), header.count, header.low_bits, again.data());
  } else if (header.index_code == wire::kBitmap) {
    wire::write_bitmap(indices.get(), header.count, header.size, again.data());
  }
  if (!std::equal(again.begin(), again.end(), exact.get() + wire::kHeaderWords)) {
    fail("indices are written in one way only");
  }
  return why;
}

}  // namespace

int main(int, char** arguments) {
  const int64_t total = std::atoll(arguments[1]);
  generator.seed(std::strtoull(arguments[2], nullptr, 10));
  std::set<std::string> reasons;
  int64_t refused = 0;
  Sent previous = make();
  for (int64_t i = 0; i < total; ++i) {
    Sent sent = make();
    if (!decode(sent.words, sent.expectation).empty()) fail("what is sent is read");
    Words words = mutated(sent, previous);
    Expectation expected = sent.expectation;
    if (below(2) && words.size() >= 6) {  // A reader that expects what is claimed.
      if (words[2] < 0x80000000u) expected.size = words[2];
      if (words[4] < 0x80000000u) expected.block = words[4];
      expected.value_type = (words[5] >> 4) % 16 % kTypes;
      expected.shared_count = (words[5] & 15) == wire::kShared ? words[3] : -1;
    }
    wire::Refusal why = decode(words, expected);
    if (!why.empty()) {
      ++refused;
      // Whatever number is named, it is one reason.
      why.erase(std::remove_if(why.begin(), why.end(), ::isdigit), why.end());
      reasons.insert(why);
    }
    previous = std::move(sent);
  }
  std::printf("%lld payloads, %lld refused, %zu reasons\n",
              static_cast<long long>(total), static_cast<long long>(refused),
              reasons.size());
}
