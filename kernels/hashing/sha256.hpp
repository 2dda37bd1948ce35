// SHA-256 (FIPS 180-4) by the processor's own instructions (Intel SHA extensions), without an allocation.
//
// OpenSSL's is as quick a byte. What it costs besides, a context allocated and copied for each digest through its
// provider, is more than the digest of a small request.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#define TG_SHA 1
#include <cpuid.h>
#include <immintrin.h>
#else
#define TG_SHA 0
#endif

// Where nothing of this may be called.
static inline bool tg_sha256_available() {
#if TG_SHA
    unsigned a, b, c, d;
    // CPUID.1:ECX, bits 9 (SSSE3) and 19 (SSE4.1); CPUID.7.0:EBX, bit 29 (SHA).
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 9)) || !(c & (1u << 19)))
        return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 29));
#else
    return false;
#endif
}

struct tg_sha256 {
    uint32_t state[8];
    uint64_t length;  // bytes so far
    unsigned char rest[64];
};

static const uint32_t TG_SHA256_BEGIN[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                            0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

#if TG_SHA
alignas(16) static const uint32_t TG_SHA256_K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

// The registers hold the working variables as ABEF and CDGH; four rounds a step, the schedule beside them (Gulley et
// al., "Intel SHA Extensions", 2013).
__attribute__((target("sha,sse4.1,ssse3"))) static void tg_sha256_blocks(uint32_t state[8], const unsigned char *data,
                                                                          size_t blocks) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i low = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xB1);
    __m128i high = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1B);
    __m128i abef = _mm_alignr_epi8(low, high, 8);
    __m128i cdgh = _mm_blend_epi16(high, low, 0xF0);
    for (; blocks; blocks--, data += 64) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4];
        for (int i = 0; i < 4; i++)
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data + 16 * i)), swap);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            const __m128i now = w[i & 3];
            __m128i sum = _mm_add_epi32(now, _mm_load_si128((const __m128i *)(TG_SHA256_K + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            if (i >= 3 && i < 15) {
                const __m128i shifted = _mm_alignr_epi8(now, w[(i - 1) & 3], 4);
                w[(i + 1) & 3] = _mm_sha256msg2_epu32(_mm_add_epi32(w[(i + 1) & 3], shifted), now);
            }
            sum = _mm_shuffle_epi32(sum, 0x0E);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, sum);
            if (i >= 1 && i < 13)
                w[(i - 1) & 3] = _mm_sha256msg1_epu32(w[(i - 1) & 3], now);
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    low = _mm_shuffle_epi32(abef, 0x1B);
    high = _mm_shuffle_epi32(cdgh, 0xB1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(low, high, 0xF0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(high, low, 8));
}
#else
static void tg_sha256_blocks(uint32_t[8], const unsigned char *, size_t) {}  // not available: never called
#endif

static inline void tg_sha256_begin(tg_sha256 *it, const uint32_t state[8], uint64_t length) {
    memcpy(it->state, state, sizeof it->state);
    it->length = length;
}

static inline void tg_sha256_add(tg_sha256 *it, const unsigned char *data, size_t size) {
    const size_t held = it->length & 63;
    it->length += size;
    if (held) {
        const size_t room = 64 - held, taken = size < room ? size : room;
        memcpy(it->rest + held, data, taken);
        data += taken;
        size -= taken;
        if (taken < room)
            return;
        tg_sha256_blocks(it->state, it->rest, 1);
    }
    tg_sha256_blocks(it->state, data, size / 64);
    if (size & 63)
        memcpy(it->rest, data + (size & ~(size_t)63), size & 63);
}

static inline void tg_sha256_end(tg_sha256 *it, unsigned char out[32]) {
    const size_t held = it->length & 63;
    const uint64_t bits = it->length * 8;
    unsigned char last[128] = {0};
    const size_t size = held < 56 ? 64 : 128;
    memcpy(last, it->rest, held);
    last[held] = 0x80;
    for (int i = 0; i < 8; i++)
        last[size - 1 - i] = (unsigned char)(bits >> (8 * i));
    tg_sha256_blocks(it->state, last, size / 64);
    for (int i = 0; i < 8; i++) {
        const uint32_t word = __builtin_bswap32(it->state[i]);
        memcpy(out + 4 * i, &word, 4);
    }
}
