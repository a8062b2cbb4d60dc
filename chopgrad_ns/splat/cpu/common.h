// What every part of the kernel needs: vectors of eight floats and a loop over threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>
#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 8;
constexpr int CHUNK = 1024;  // Gaussians

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));

inline vf splat(float x) { return vf{x, x, x, x, x, x, x, x}; }
inline float sum(vf v) { return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7])); }
// One bit for each lane whose mask is set.
inline uint32_t bits(vi m) {
#if defined(__AVX__)
    return (uint32_t)_mm256_movemask_ps((__m256)m);
#elif defined(__SSE2__)
    __m128i half[2];
    std::memcpy(half, &m, sizeof m);
    return (uint32_t)(_mm_movemask_ps(_mm_castsi128_ps(half[0])) | _mm_movemask_ps(_mm_castsi128_ps(half[1])) << 4);
#else
    m &= vi{1, 2, 4, 8, 16, 32, 64, 128};
    return (uint32_t)(m[0] | m[1] | m[2] | m[3] | m[4] | m[5] | m[6] | m[7]);
#endif
}
inline bool any(vi m) { return bits(m) != 0; }

// Written out because compilers make three instructions of `m ? a : b`, and sixteen of a loop over roots.
inline vf keep(vi m, vf a) { return (vf)(m & (vi)a); }  // a where the mask is set, else 0
#ifdef __AVX__
inline vf select(vi m, vf a, vf b) { return (vf)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)m); }
inline vf least(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
inline vf most(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
inline vf root(vf a) { return (vf)_mm256_sqrt_ps((__m256)a); }
#else
inline vf select(vi m, vf a, vf b) { return (vf)((m & (vi)a) | (~m & (vi)b)); }
inline vf least(vf a, vf b) { return a < b ? a : b; }
inline vf most(vf a, vf b) { return a > b ? a : b; }
inline vf root(vf a) {
    float x[LANES];
    std::memcpy(x, &a, sizeof x);
    for (float& value : x) value = std::sqrt(value);
    std::memcpy(&a, x, sizeof x);
    return a;
}
#endif
inline vi select(vi m, vi a, vi b) { return (vi)select(m, (vf)a, (vf)b); }
inline vf absolute(vf a) { return (vf)((vi)a & 0x7fffffff); }

// exp(x) for x ≤ 0 to about 2e-7 relative: 2^k · 2^f with |f| ≤ ½, the second by the best polynomial of degree 5.
inline vf exp_negative(vf x) {
    x = most(x, splat(-80.f));
    vf t = x * splat(1.44269504088896f);
    vi k = __builtin_convertvector(t - splat(0.5f), vi);
    vf f = t - __builtin_convertvector(k, vf);
    vf p = splat(1.327647199e-3f);
    p = p * f + splat(9.675541334e-3f);
    p = p * f + splat(5.550713273e-2f);
    p = p * f + splat(0.2402211972f);
    p = p * f + splat(0.6931469671f);
    p = p * f + splat(1.000000072f);
    vi bits = (k + 127) << 23;
    vf scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

template <class F>
void parallel(int64_t jobs, int threads, F&& job) {
    threads = (int)std::min<int64_t>(std::max(threads, 1), jobs);
    if (threads <= 1) {
        for (int64_t i = 0; i < jobs; ++i) job(i);
        return;
    }
    std::atomic<int64_t> next{0};
    auto work = [&] {
        for (int64_t i; (i = next.fetch_add(1)) < jobs;) job(i);
    };
    std::vector<std::thread> pool;
    try {
        for (int t = 1; t < threads; ++t) pool.emplace_back(work);
    } catch (const std::system_error&) {
        // No more threads may be had; those there are do all the work.
    }
    work();
    for (auto& t : pool) t.join();
}

// Calls `job(i)` for every Gaussian, a chunk of them at a time.
template <class F>
void each_gaussian(int64_t N, int threads, F&& job) {
    parallel((N + CHUNK - 1) / CHUNK, threads, [&](int64_t chunk) {
        for (int64_t i = chunk * CHUNK; i < std::min<int64_t>(N, (chunk + 1) * CHUNK); ++i) job(i);
    });
}

}  // namespace
