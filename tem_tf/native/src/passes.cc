#include "passes.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>

#if defined(__x86_64__) && defined(__GNUC__)
#define TEM_TF_X86 1
#include <immintrin.h>
#endif

namespace tem_tf {

// One entry at a time: for other processors, and the last entries of a stretch.
namespace scalar {
namespace {

void SumsOfSquares(const float* x, int64_t size, float* sums) {
  for (; size > 0; x += kRow, size -= kRow) {
    float squares[kRow] = {};
    for (int64_t i = 0; i < std::min(size, kRow); ++i) squares[i] = x[i] * x[i];
    *sums++ = SumByHalves(squares, kRow);
  }
}

void Select(const Stretch& s, float threshold, Entries* selected, Left* left) {
  for (int64_t i = 0; i < s.size; ++i) {
    float p = Corrected(s, i);
    if (s.memory == Memory::kMomentum) s.velocity[i] = p - s.kept[i];
    if (std::fabs(p) >= threshold) {
      selected->Append(p, s.position + static_cast<int32_t>(i));
      p = Without(p);
    }
    if (s.memory != Memory::kEstimate) s.kept[i] = p;
    left->squared += p * p;
    left->largest = std::max(left->largest, std::fabs(p));
  }
}

}  // namespace
}  // namespace scalar

#ifdef TEM_TF_X86

#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
namespace {

using Vector = __m256;
using Mask = __m256;
constexpr int kLanes = 8;

inline Vector Load(const float* x) { return _mm256_loadu_ps(x); }
inline void Store(float* x, Vector v) { _mm256_storeu_ps(x, v); }
inline Vector Fill(float x) { return _mm256_set1_ps(x); }
inline Vector Add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
inline Vector Subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
inline Vector Multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
inline Vector MultiplyAdd(Vector a, Vector b, Vector c) {
  return _mm256_fmadd_ps(a, b, c);
}
inline Vector Magnitude(Vector v) {
  return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
}
inline Vector Larger(Vector a, Vector b) { return _mm256_max_ps(a, b); }
inline Mask AtLeast(Vector a, Vector b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
inline Mask Or(Mask a, Mask b) { return _mm256_or_ps(a, b); }
inline bool Any(Mask m) { return _mm256_movemask_ps(m) != 0; }
inline Vector Without(Vector p, Mask m) {
  return _mm256_sub_ps(p, _mm256_add_ps(_mm256_and_ps(p, m), _mm256_setzero_ps()));
}
inline void AppendLanes(Vector p, Mask m, int32_t position, Entries* selected) {
  unsigned bits = _mm256_movemask_ps(m);
  alignas(32) float lanes[kLanes];
  _mm256_store_ps(lanes, p);
  for (; bits != 0; bits &= bits - 1) {
    const int lane = __builtin_ctz(bits);
    selected->values()[selected->size] = lanes[lane];
    selected->positions()[selected->size] = position + lane;
    ++selected->size;
  }
}
inline double SumOfLanes(Vector v) {
  alignas(32) float lanes[kLanes];
  _mm256_store_ps(lanes, v);
  double sum = 0;
  for (float lane : lanes) sum += lane;
  return sum;
}
inline float LargestLane(Vector v) {
  alignas(32) float lanes[kLanes];
  _mm256_store_ps(lanes, v);
  return *std::max_element(lanes, lanes + kLanes);
}

#include "passes.inc"

}  // namespace
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx2,fma")
namespace avx512 {
namespace {

using Vector = __m512;
using Mask = __mmask16;
constexpr int kLanes = 16;

inline Vector Load(const float* x) { return _mm512_loadu_ps(x); }
inline void Store(float* x, Vector v) { _mm512_storeu_ps(x, v); }
inline Vector Fill(float x) { return _mm512_set1_ps(x); }
inline Vector Add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
inline Vector Subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
inline Vector Multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
inline Vector MultiplyAdd(Vector a, Vector b, Vector c) {
  return _mm512_fmadd_ps(a, b, c);
}
inline Vector Magnitude(Vector v) { return _mm512_abs_ps(v); }
inline Vector Larger(Vector a, Vector b) { return _mm512_max_ps(a, b); }
inline Mask AtLeast(Vector a, Vector b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}
inline Mask Or(Mask a, Mask b) { return a | b; }
inline bool Any(Mask m) { return m != 0; }
inline Vector Without(Vector p, Mask m) {
  return _mm512_mask_sub_ps(p, m, p, _mm512_add_ps(p, _mm512_setzero_ps()));
}
inline void AppendLanes(Vector p, Mask m, int32_t position, Entries* selected) {
  const __m512i lanes =
      _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i positions = _mm512_add_epi32(_mm512_set1_epi32(position), lanes);
  // To a register and then whole to memory: compressing stores are slow on Zen 4.
  _mm512_storeu_ps(selected->values() + selected->size,
                   _mm512_maskz_compress_ps(m, p));
  _mm512_storeu_si512(selected->positions() + selected->size,
                      _mm512_maskz_compress_epi32(m, positions));
  selected->size += __builtin_popcount(m);
}
inline double SumOfLanes(Vector v) { return _mm512_reduce_add_ps(v); }
inline float LargestLane(Vector v) { return _mm512_reduce_max_ps(v); }

#include "passes.inc"

}  // namespace
}  // namespace avx512
#pragma GCC pop_options

#endif  // TEM_TF_X86

const Passes& BestPasses() {
  static const Passes best = [] {
    Passes passes{scalar::SumsOfSquares, scalar::Select};
#ifdef TEM_TF_X86
    const char* variable = std::getenv("TEM_TF_NATIVE");
    const std::string widest = variable == nullptr ? "" : variable;
    if (widest == "scalar") return passes;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      passes = {avx2::SumsOfSquares, avx2::Select};
    }
    if (widest == "avx2") return passes;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      passes = {avx512::SumsOfSquares, avx512::Select};
    }
#endif
    return passes;
  }();
  return best;
}

}  // namespace tem_tf
