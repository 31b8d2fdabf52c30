// One step of a pre-norm transformer on a CPU: what a step of decoding reads and multiplies, in one call.
//
// Compiled at first use by native.py. Vectors are those of GCC and Clang: the compiler makes AVX-512, AVX2, NEON or scalar
// code of them, so there is no second, scalar version to keep equal.
//
// The products are bound by memory: a weight is read once, whatever the number of rows, and a tile of outputs shares
// every load. Sums are float32 in a fixed order, so a row's result does not depend on its batch-mates or on the threads;
// for int8 weights the activations of a row are rounded to 16 bits, and the sums are exact integers.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

// floats of a vector: what one register holds, because compilers take larger ones apart badly
#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif
typedef float Vec __attribute__((vector_size(4 * W), aligned(4)));
typedef int32_t IntVec __attribute__((vector_size(4 * W), aligned(4)));
typedef uint16_t HalfVec __attribute__((vector_size(2 * W), aligned(2)));

enum Format { FLOAT32 = 0, BF16 = 1, INT8 = 2 };

extern "C" {

struct Linear {
    const void* weight;  // (out, in), packed, out padded to a multiple of 8
    const float* scale;  // (out,) for int8, else null
    const float* bias;   // (out,) or null
    int32_t out, in, format;
};

struct Layer {
    const float *attention_norm, *attention_norm_bias;  // a bias may be null
    const float *feed_forward_norm, *feed_forward_norm_bias;
    Linear qkv, attention_out, up, down;
};

struct Step {
    int32_t rows, width, heads, inner, length, capacity, exact_gelu, threads;
    int64_t cache_row;    // numbers from one row of the cache to the next
    const uint8_t* mask;  // (rows, capacity), 0 where a row may not look, or null
    const float* rotation;  // (rotation_rows, 2, head_width): cosines and signed sines, or null
    int32_t rotation_rows;  // 1 or rows
    int32_t half_cache;     // whether keys and values are bfloat16
    float* scratch;         // rows * (4 * width + inner) + threads * capacity floats
};
}

namespace {

inline Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }

// Compilers widen small integers badly on their own; where there are no instructions for it here, they do it.
inline IntVec widen(const uint16_t* p) {
#if defined(__AVX512F__)
    return (IntVec)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__)
    return (IntVec)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
#else
    return __builtin_convertvector(*reinterpret_cast<const HalfVec*>(p), IntVec);
#endif
}

inline Vec load(const uint16_t* p) {  // bfloat16 is the upper half of a float
    const IntVec bits = widen(p) << 16;
    Vec out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

inline float number(float x) { return x; }

inline float number(uint16_t x) {
    const uint32_t bits = uint32_t(x) << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

inline void store(float* to, const float* from, int count) { std::memcpy(to, from, count * sizeof(float)); }

inline void store(uint16_t* to, const float* from, int count) {  // to the nearest one, of two equally near the even one
    for (int i = 0; i < count; i++) {
        uint32_t bits;
        std::memcpy(&bits, from + i, sizeof bits);
        to[i] = from[i] != from[i] ? 0x7fc0 : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}

inline float sum(Vec v) {
    float s = 0;
    for (int i = 0; i < W; i++) s += v[i];
    return s;
}

inline float largest(Vec v) {
    float m = v[0];
    for (int i = 1; i < W; i++) m = v[i] > m ? v[i] : m;
    return m;
}

inline Vec splat(float x) { return Vec{} + x; }

constexpr int GROUP = 4, CHUNK = 16;  // weights lie as (out / 4, in / 16, 4, 16): one stream, whatever is read at once
constexpr int LANES = 8;  // int32 of an integer sum

// Sums of a chunk of weights, every WIDTH of them times as many of x: in float32, or of int8 and int16 in exact integers.
struct FloatSum {
    static constexpr int WIDTH = W;
    Vec total = {};
    template <class T>
    void add(const T* w, const float* x) { total += load(w) * load(x); }
    float value() const { return sum(total); }
};

struct IntegerSum {
    static constexpr int WIDTH = CHUNK;
#if defined(__AVX2__)
    __m256i total = _mm256_setzero_si256();
    void add(const int8_t* w, const int16_t* x) {
        const __m256i weights = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)w));
        total = _mm256_add_epi32(total, _mm256_madd_epi16(weights, _mm256_loadu_si256((const __m256i*)x)));
    }
#else
    int32_t total[LANES] = {};
    void add(const int8_t* w, const int16_t* x) {
        for (int j = 0; j < CHUNK; j++) total[j % LANES] += int32_t(w[j]) * x[j];
    }
#endif
    float value() const {
        int32_t lanes[LANES];
        int64_t s = 0;
        std::memcpy(lanes, &total, sizeof lanes);
        for (int32_t lane : lanes) s += lane;
        return float(s);
    }
};

// R outputs, from row `row` of group `group` on, of M rows of x; each is summed in the same order whatever R and M are.
template <class T, class Sum, int R, int M, class X>
inline void tile(const Linear& l, int group, int row, const X* x, const float* x_scale, float* y) {
    constexpr int GROUPS = R > GROUP ? R / GROUP : 1, ROWS = R / GROUPS;
    const int64_t group_size = int64_t(GROUP) * l.in;
    const T* w = static_cast<const T*>(l.weight) + group * group_size + row * CHUNK;
    Sum total[R][M];
    for (int i = 0; i < l.in; i += CHUNK, w += GROUP * CHUNK) {
        for (int g = 0; g < GROUPS; g++)
            for (size_t line = 0; line < GROUP * CHUNK * sizeof(T); line += 64)
                __builtin_prefetch(reinterpret_cast<const char*>(w + g * group_size) + 4096 + line);
        for (int j = 0; j < CHUNK; j += Sum::WIDTH)
            for (int r = 0; r < R; r++)
                for (int m = 0; m < M; m++)
                    total[r][m].add(w + (r / ROWS) * group_size + (r % ROWS) * CHUNK + j, x + int64_t(m) * l.in + i + j);
    }
    const int first = group * GROUP + row;
    for (int r = 0; r < R && first + r < l.out; r++)
        for (int m = 0; m < M; m++) {
            const float scale = (l.scale ? l.scale[first + r] : 1.0f) * (x_scale ? x_scale[m] : 1.0f);
            // one rounding in every tile, whatever the compiler thinks of this one
            y[int64_t(m) * l.out + first + r] = std::fma(total[r][m].value(), scale, l.bias ? l.bias[first + r] : 0.0f);
        }
}

// two groups, for all rows of x
template <class T, class Sum, class X>
void two_groups(const Linear& l, int group, int rows, const X* x, const float* x_scale, float* y) {
    for (int m = 0, some; m < rows; m += some, x += int64_t(some) * l.in, y += int64_t(some) * l.out, x_scale += x_scale ? some : 0) {
        const int left = rows - m;  // of float32, twelve sums are faster than eight, of what is widened first they are not
        some = left == 3 || (sizeof(T) == sizeof(float) && left > 4) ? 3 : left > 4 ? 4 : left;
        if (some == 4)
            for (int row = 0; row < 2 * GROUP; row += 2) tile<T, Sum, 2, 4>(l, group + row / GROUP, row % GROUP, x, x_scale, y);
        else if (some == 3)
            for (int g = 0; g < 2; g++) tile<T, Sum, GROUP, 3>(l, group + g, 0, x, x_scale, y);
        else if (some == 2)
            for (int g = 0; g < 2; g++) tile<T, Sum, GROUP, 2>(l, group + g, 0, x, x_scale, y);
        else tile<T, Sum, 2 * GROUP, 1>(l, group, 0, x, x_scale, y);
    }
}

template <class T, class Sum = FloatSum, class X>
void multiply(const Linear& l, int rows, const X* x, const float* x_scale, float* y, int threads) {
    const int pairs = (l.out + 2 * GROUP - 1) / (2 * GROUP);
    const bool worth_it = threads > 1 && int64_t(l.out) * l.in * rows > 1 << 18;  // waking threads takes microseconds
#pragma omp parallel for schedule(static) num_threads(threads) if (worth_it)
    for (int pair = 0; pair < pairs; pair++) two_groups<T, Sum>(l, 2 * pair, rows, x, x_scale, y);
}

// A row of x as integers, and the scale that makes it x again; not a number where x has one that is none. The range leaves
// room for a sum of `count` products with int8.
float round_row(const float* x, int count, int16_t* rounded) {
    Vec most = {}, bad = {};
    for (int i = 0; i < count; i += W) {
        const Vec v = load(x + i), size = v < Vec{} ? -v : v;
        most = size > most ? size : most;
        bad += v * 0.0f;
    }
    const float room = float(INT32_MAX) / 127.0f / float(count / LANES + 1), range = room < 32767.0f ? room : 32767.0f;
    const float scale = largest(most) / range, inverse = scale > 0 ? 1.0f / scale : 0.0f;
    for (int i = 0; i < count; i++) rounded[i] = int16_t(std::lrint(x[i] * inverse));
    return scale + sum(bad);
}

void linear(const Linear& l, int rows, const float* x, float* y, int threads) {
    constexpr int BLOCK = 48;  // rows of x that a core's cache holds while all weights pass by: those of a prefill are many
    for (int start = 0; start < rows; start += BLOCK, x += int64_t(BLOCK) * l.in, y += int64_t(BLOCK) * l.out) {
        const int some = rows - start < BLOCK ? rows - start : BLOCK;
        if (l.format == FLOAT32) multiply<float>(l, some, x, nullptr, y, threads);
        else if (l.format == BF16) multiply<uint16_t>(l, some, x, nullptr, y, threads);
        else {
            static thread_local std::vector<int16_t> rounded;
            float scale[BLOCK];
            rounded.resize(std::max(rounded.size(), size_t(some) * l.in));
            for (int m = 0; m < some; m++) scale[m] = round_row(x + int64_t(m) * l.in, l.in, rounded.data() + int64_t(m) * l.in);
            multiply<int8_t, IntegerSum>(l, some, rounded.data(), scale, y, threads);
        }
    }
}

void layer_norm(const float* x, const float* scale, const float* bias, float* y, int width, int rows) {
    for (int m = 0; m < rows; m++, x += width, y += width) {
        double mean = 0, square = 0;
        for (int i = 0; i < width; i++) mean += x[i];
        mean /= width;
        for (int i = 0; i < width; i++) square += (x[i] - mean) * (x[i] - mean);
        const float inverse = float(1.0 / std::sqrt(square / width + 1e-5)), center = float(mean);
        for (int i = 0; i < width; i++) y[i] = (x[i] - center) * inverse * scale[i] + (bias ? bias[i] : 0.0f);
    }
}

// e^x to 2 units in the last place, 0 below -87: x = n log 2 + r, and a polynomial for e^r (Cephes' coefficients).
inline Vec exponential(Vec x) {
    const Vec least = splat(-87.0f), most = splat(88.0f);
    const IntVec below = x < least;
    x = x < least ? least : x;
    x = x > most ? most : x;
    const Vec scaled = x * 1.44269504088896341f;
    const IntVec n = __builtin_convertvector(scaled + (scaled < Vec{} ? splat(-0.5f) : splat(0.5f)), IntVec);
    const Vec whole = __builtin_convertvector(n, Vec);
    const Vec r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    Vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const IntVec bits = (n + 127) << 23;
    Vec power;
    std::memcpy(&power, &bits, sizeof power);
    return below ? Vec{} : p * power;
}

void gelu_tanh(float* x, int64_t count) {
    int64_t i = 0;
    for (; i + W <= count; i += W) {
        const Vec v = load(x + i);
        const Vec u = 0.7978845608028654f * (v + 0.044715f * v * v * v);
        *reinterpret_cast<Vec*>(x + i) = v / (1.0f + exponential(-2.0f * u));
    }
    for (; i < count; i++) x[i] *= 0.5f * (1.0f + std::tanh(0.7978845608028654f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
}

void gelu_exact(float* x, int64_t count) {
    for (int64_t i = 0; i < count; i++) x[i] *= 0.5f * (1.0f + std::erf(x[i] * 0.70710678118654752f));
}

template <class K>
inline float dot(const float* a, const K* b, int count) {
    Vec total = {};
    int i = 0;
    for (; i + W <= count; i += W) total += load(a + i) * load(b + i);
    float s = sum(total);
    for (; i < count; i++) s += a[i] * number(b[i]);
    return s;
}

// softmax in place over keys; returns 1 / its sum
float softmax(float* score, int keys) {
    float most = -INFINITY;
    int k = 0;
    for (; k + W <= keys; k += W) {
        const float m = largest(load(score + k));
        most = m > most ? m : most;
    }
    for (; k < keys; k++) most = score[k] > most ? score[k] : most;
    Vec total = {};
    for (k = 0; k + W <= keys; k += W) {
        const Vec e = exponential(load(score + k) - most);
        *reinterpret_cast<Vec*>(score + k) = e;
        total += e;
    }
    float s = sum(total);
    for (; k < keys; k++) s += score[k] = std::exp(score[k] - most);
    return 1.0f / s;
}

void rotate(float* x, const float* cosines, const float* sines, int width, float* scratch) {
    const int half = width / 2;
    for (int i = 0; i < half; i++) {
        scratch[i] = x[i] * cosines[i] + x[i + half] * sines[i];
        scratch[i + half] = x[i + half] * cosines[i + half] + x[i] * sines[i + half];
    }
    std::memcpy(x, scratch, width * sizeof(float));
}

// the query of one row and head over the keys so far, the new one included
template <class K>
void attend_head(const Step& s, int row, const float* q, const K* keys, const K* values, float* read, float* score) {
    const int width = s.width / s.heads, count = s.length + 1;
    const uint8_t* mask = s.mask ? s.mask + int64_t(row) * s.capacity : nullptr;
    const float scale = 1.0f / std::sqrt(float(width));
    for (int k = 0; k < count; k++) {
        const bool seen = !mask || mask[k];
        score[k] = seen ? dot(q, keys + int64_t(k) * width, width) * scale : -INFINITY;
    }
    const float inverse = softmax(score, count);
    std::memset(read, 0, width * sizeof(float));
    for (int k = 0; k < count; k++) {
        const float weight = score[k] * inverse;
        const K* v = values + int64_t(k) * width;
        int i = 0;
        for (; i + W <= width; i += W) *reinterpret_cast<Vec*>(read + i) += weight * load(v + i);
        for (; i < width; i++) read[i] += weight * number(v[i]);
    }
}

template <class K>
void attention(const Step& s, const Layer& layer, float* x, K* keys, K* values) {
    const int head_width = s.width / s.heads;
    float *normed = s.scratch, *qkv = normed + int64_t(s.rows) * s.width, *scores = qkv + int64_t(s.rows) * (3 * s.width + s.inner);
    layer_norm(x, layer.attention_norm, layer.attention_norm_bias, normed, s.width, s.rows);
    linear(layer.qkv, s.rows, normed, qkv, s.threads);
    for (int job = 0; job < s.rows * s.heads; job++) {
        const int row = job / s.heads, head = job % s.heads;
        float *q = qkv + int64_t(row) * 3 * s.width + head * head_width, *k = q + s.width;
        const int64_t place = row * s.cache_row + int64_t(head) * s.capacity * head_width;
        if (s.rotation) {
            const float* turn = s.rotation + (s.rotation_rows > 1 ? int64_t(row) * 2 * head_width : 0);
            rotate(q, turn, turn + head_width, head_width, scores);
            rotate(k, turn, turn + head_width, head_width, scores);
        }
        store(keys + place + int64_t(s.length) * head_width, k, head_width);
        store(values + place + int64_t(s.length) * head_width, k + s.width, head_width);
        attend_head(s, row, q, keys + place, values + place, normed + int64_t(row) * s.width + head * head_width, scores);
    }
    linear(layer.attention_out, s.rows, normed, qkv, s.threads);
    for (int64_t i = 0; i < int64_t(s.rows) * s.width; i++) x[i] += qkv[i];
}

void feed_forward(const Step& s, const Layer& layer, float* x) {
    float *normed = s.scratch, *inner = normed + int64_t(s.rows) * s.width;
    layer_norm(x, layer.feed_forward_norm, layer.feed_forward_norm_bias, normed, s.width, s.rows);
    linear(layer.up, s.rows, normed, inner, s.threads);
    if (s.exact_gelu) gelu_exact(inner, int64_t(s.rows) * s.inner);
    else gelu_tanh(inner, int64_t(s.rows) * s.inner);
    linear(layer.down, s.rows, inner, normed, s.threads);
    for (int64_t i = 0; i < int64_t(s.rows) * s.width; i++) x[i] += normed[i];
}

template <class K>
void layers_of(const Step& s, const Layer* layers, int32_t count, float* x, K* keys, K* values, int64_t cache_layer) {
    for (int32_t l = 0; l < count; l++) {
        attention(s, layers[l], x, keys + l * cache_layer, values + l * cache_layer);
        feed_forward(s, layers[l], x);
    }
}

}  // namespace

extern "C" {

int64_t sizes(int32_t what) { return what == 0 ? sizeof(Linear) : what == 1 ? sizeof(Layer) : sizeof(Step); }

void apply_linear(const Linear* l, int32_t rows, const float* x, float* y, int32_t threads) { linear(*l, rows, x, y, threads); }

// x (rows, width) in place; keys and values of the layers lie `cache_layer` numbers apart
void run_layers(const Step* s, const Layer* layers, int32_t count, float* x, void* keys, void* values, int64_t cache_layer) {
    if (s->half_cache) layers_of(*s, layers, count, x, static_cast<uint16_t*>(keys), static_cast<uint16_t*>(values), cache_layer);
    else layers_of(*s, layers, count, x, static_cast<float*>(keys), static_cast<float*>(values), cache_layer);
}

void run_attention(const Step* s, const Layer* layer, float* x, void* keys, void* values) {
    if (s->half_cache) attention(*s, *layer, x, static_cast<uint16_t*>(keys), static_cast<uint16_t*>(values));
    else attention(*s, *layer, x, static_cast<float*>(keys), static_cast<float*>(values));
}

void run_feed_forward(const Step* s, const Layer* layer, float* x) { feed_forward(*s, *layer, x); }
}
