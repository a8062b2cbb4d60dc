// Gaussian splatting on a CPU behind a plain C ABI: projection with spherical harmonics, tile binning, compositing,
// and the hand-written gradients of all three. Conventions are gsplat's (see rasterize.py).
//
// Results do not depend on the number of threads: work is cut into chunks of fixed size, every chunk writes places of
// its own, and what several chunks contribute to is summed afterwards in the order of the chunks.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>
#ifdef __AVX__
#include <immintrin.h>
#endif

namespace {

constexpr int TILE = 16;
constexpr int LANES = 8;
constexpr int VECTORS = TILE * TILE / LANES;  // of one tile; two make a row
constexpr float ALPHA_MIN = 1.f / 255.f;
constexpr float ALPHA_MAX = 0.999f;
constexpr float TRANSMITTANCE_MIN = 1e-4f;
constexpr int CHUNK = 1024;  // Gaussians

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef int64_t vl __attribute__((vector_size(4 * LANES)));

inline vf splat(float x) { return vf{x, x, x, x, x, x, x, x}; }
inline float sum(vf v) { return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7])); }
inline bool any(vi m) {
#ifdef __AVX__
    return !_mm256_testz_si256((__m256i)m, (__m256i)m);
#else
    vl wide = (vl)m;
    return (wide[0] | wide[1] | wide[2] | wide[3]) != 0;
#endif
}

// exp(x) for x ≤ 0 to about 2e-7 relative: 2^k · 2^f with |f| ≤ ½, the second by the best polynomial of degree 5.
inline vf exp_negative(vf x) {
    x = x < splat(-80.f) ? splat(-80.f) : x;
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

// ---------------------------------------------------------------------------------------------- projection

struct Camera {
    float R[3][3], t[3], position[3];
    float fx, fy, cx, cy, x_low, x_high, y_low, y_high;
};

Camera load_camera(const float* view, const float* K, int width, int height) {
    Camera c;
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) c.R[i][j] = view[4 * i + j];
        c.t[i] = view[4 * i + 3];
    }
    for (int j = 0; j < 3; ++j) c.position[j] = -(c.R[0][j] * c.t[0] + c.R[1][j] * c.t[1] + c.R[2][j] * c.t[2]);
    c.fx = K[0], c.fy = K[4], c.cx = K[2], c.cy = K[5];
    // The Jacobian is taken no further than 15 % outside the picture: far outside it explodes.
    float margin_x = 0.3f * 0.5f * width / c.fx, margin_y = 0.3f * 0.5f * height / c.fy;
    c.x_high = (width - c.cx) / c.fx + margin_x, c.x_low = -(c.cx / c.fx + margin_x);
    c.y_high = (height - c.cy) / c.fy + margin_y, c.y_low = -(c.cy / c.fy + margin_y);
    return c;
}

struct Shape {  // of one Gaussian in the world
    float q[4], norm, Q[3][3], M[3][3];  // rotation, and rotation·diag(scale): the covariance is M·Mᵀ
};

void load_shape(const float* quat, const float* scale, Shape& s) {
    s.norm = std::sqrt(quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3]);
    float inverse = s.norm > 0 ? 1.f / s.norm : 0.f;
    for (int i = 0; i < 4; ++i) s.q[i] = quat[i] * inverse;
    float w = s.q[0], x = s.q[1], y = s.q[2], z = s.q[3];
    float Q[3][3] = {{1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)},
                     {2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)},
                     {2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)}};
    std::memcpy(s.Q, Q, sizeof Q);
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) s.M[i][j] = Q[i][j] * scale[j];
}

struct Projected {  // one Gaussian in one camera
    float p[3];           // centre in camera space
    float M[3][3];        // R·M of its shape
    float tx, ty;         // clamped x and y
    bool x_free, y_free;  // whether they are unclamped
    float J[2][3], T[2][3];       // projection's Jacobian; J·M, the root of the 2D covariance
    float a, b, c, det;           // blurred 2D covariance and its determinant
    float a0, c0, det0;           // without the blur
};

bool project(const Camera& k, const float* mean, const Shape& s, float eps, float near, float far, Projected& o) {
    for (int i = 0; i < 3; ++i)
        o.p[i] = k.R[i][0] * mean[0] + k.R[i][1] * mean[1] + k.R[i][2] * mean[2] + k.t[i];
    float z = o.p[2];
    if (!(z > near && z < far)) return false;
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) o.M[i][j] = k.R[i][0] * s.M[0][j] + k.R[i][1] * s.M[1][j] + k.R[i][2] * s.M[2][j];
    float rx = o.p[0] / z, ry = o.p[1] / z;
    o.x_free = rx >= k.x_low && rx <= k.x_high, o.y_free = ry >= k.y_low && ry <= k.y_high;
    o.tx = z * std::min(std::max(rx, k.x_low), k.x_high), o.ty = z * std::min(std::max(ry, k.y_low), k.y_high);
    float J[2][3] = {{k.fx / z, 0, -k.fx * o.tx / (z * z)}, {0, k.fy / z, -k.fy * o.ty / (z * z)}};
    std::memcpy(o.J, J, sizeof J);
    for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 3; ++j) o.T[i][j] = J[i][0] * o.M[0][j] + J[i][1] * o.M[1][j] + J[i][2] * o.M[2][j];
    auto dot = [&](int i, int j) { return o.T[i][0] * o.T[j][0] + o.T[i][1] * o.T[j][1] + o.T[i][2] * o.T[j][2]; };
    o.a0 = dot(0, 0), o.b = dot(0, 1), o.c0 = dot(1, 1);
    o.a = o.a0 + eps, o.c = o.c0 + eps;
    // a·c − b² would cancel for needles; the squared cross product of the root's rows does not.
    float n0 = o.T[0][1] * o.T[1][2] - o.T[0][2] * o.T[1][1], n1 = o.T[0][2] * o.T[1][0] - o.T[0][0] * o.T[1][2],
          n2 = o.T[0][0] * o.T[1][1] - o.T[0][1] * o.T[1][0];
    o.det0 = n0 * n0 + n1 * n1 + n2 * n2;
    o.det = o.det0 + eps * (o.a0 + o.c0) + eps * eps;
    return o.det > 0 && std::isfinite(o.det);
}

// Real spherical harmonics to degree 3 of a unit direction; with `slopes`, their derivatives by x, y and z as well.
void harmonics(int degree, const float* d, float* B, float (*slopes)[3]) {
    float x = d[0], y = d[1], z = d[2];
    auto slope = [&](int k, float dx, float dy, float dz) {
        if (slopes) slopes[k][0] = dx, slopes[k][1] = dy, slopes[k][2] = dz;
    };
    B[0] = 0.28209479177387814f, slope(0, 0, 0, 0);
    if (degree < 1) return;
    const float c1 = 0.4886025119029199f;
    B[1] = -c1 * y, slope(1, 0, -c1, 0);
    B[2] = c1 * z, slope(2, 0, 0, c1);
    B[3] = -c1 * x, slope(3, -c1, 0, 0);
    if (degree < 2) return;
    const float c2 = 1.0925484305920792f, c20 = 0.31539156525252005f, c22 = 0.5462742152960396f;
    B[4] = c2 * x * y, slope(4, c2 * y, c2 * x, 0);
    B[5] = -c2 * y * z, slope(5, 0, -c2 * z, -c2 * y);
    B[6] = c20 * (2 * z * z - x * x - y * y), slope(6, -2 * c20 * x, -2 * c20 * y, 4 * c20 * z);
    B[7] = -c2 * x * z, slope(7, -c2 * z, 0, -c2 * x);
    B[8] = c22 * (x * x - y * y), slope(8, 2 * c22 * x, -2 * c22 * y, 0);
    if (degree < 3) return;
    const float c33 = 0.5900435899266435f, c32 = 2.890611442640554f, c31 = 0.4570457994644658f,
                c30 = 0.3731763325901154f, c3m = 1.445305721320277f;
    float xx = x * x, yy = y * y, zz = z * z;
    B[9] = -c33 * y * (3 * xx - yy), slope(9, -6 * c33 * x * y, -c33 * (3 * xx - 3 * yy), 0);
    B[10] = c32 * x * y * z, slope(10, c32 * y * z, c32 * x * z, c32 * x * y);
    B[11] = -c31 * y * (4 * zz - xx - yy),
    slope(11, 2 * c31 * x * y, -c31 * (4 * zz - xx - 3 * yy), -8 * c31 * y * z);
    B[12] = c30 * z * (2 * zz - 3 * xx - 3 * yy),
    slope(12, -6 * c30 * x * z, -6 * c30 * y * z, c30 * (6 * zz - 3 * xx - 3 * yy));
    B[13] = -c31 * x * (4 * zz - xx - yy),
    slope(13, -c31 * (4 * zz - 3 * xx - yy), 2 * c31 * x * y, -8 * c31 * x * z);
    B[14] = c3m * z * (xx - yy), slope(14, 2 * c3m * x * z, -2 * c3m * y * z, c3m * (xx - yy));
    B[15] = -c33 * x * (xx - 3 * yy), slope(15, -c33 * (3 * xx - 3 * yy), 6 * c33 * x * y, 0);
}

float direction(const Camera& k, const float* mean, float* d) {
    for (int i = 0; i < 3; ++i) d[i] = mean[i] - k.position[i];
    float length = std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
    float inverse = length > 0 ? 1.f / length : 0.f;
    for (int i = 0; i < 3; ++i) d[i] *= inverse;
    return length;
}

// Gradients of the 2D covariance and compensation, as a full symmetric 2×2 matrix.
void covariance_gradient(const Projected& o, float eps, const float* conic, const float* v_conic, float v_comp,
                         float G[2][2]) {
    float P[2][2] = {{conic[0], conic[1]}, {conic[1], conic[2]}};
    float V[2][2] = {{v_conic[0], 0.5f * v_conic[1]}, {0.5f * v_conic[1], v_conic[2]}};
    float PV[2][2];
    for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j) PV[i][j] = P[i][0] * V[0][j] + P[i][1] * V[1][j];
    for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j) G[i][j] = -(PV[i][0] * P[0][j] + PV[i][1] * P[1][j]);
    float ratio = o.det0 / o.det, rest = (eps * (o.a0 + o.c0) + eps * eps) / o.det;  // they add up to 1
    if (v_comp == 0 || ratio <= 0) return;
    float s = v_comp * 0.5f / std::sqrt(ratio) / o.det;
    G[0][0] += s * (rest * o.c0 - ratio * eps);
    G[1][1] += s * (rest * o.a0 - ratio * eps);
    G[0][1] -= s * rest * o.b;
    G[1][0] -= s * rest * o.b;
}

void quaternion_gradient(const Shape& s, const float v[3][3], float* out) {
    float w = s.q[0], x = s.q[1], y = s.q[2], z = s.q[3];
    float yz = v[2][1] + v[1][2], xz = v[2][0] + v[0][2], xy = v[1][0] + v[0][1];  // symmetric parts
    float rx = v[2][1] - v[1][2], ry = v[0][2] - v[2][0], rz = v[1][0] - v[0][1];  // skew parts
    float g[4] = {2 * (x * rx + y * ry + z * rz),
                  2 * (-2 * x * (v[1][1] + v[2][2]) + y * xy + z * xz + w * rx),
                  2 * (x * xy - 2 * y * (v[0][0] + v[2][2]) + z * yz + w * ry),
                  2 * (x * xz + y * yz - 2 * z * (v[0][0] + v[1][1]) + w * rz)};
    float along = g[0] * w + g[1] * x + g[2] * y + g[3] * z, inverse = s.norm > 0 ? 1.f / s.norm : 0.f;
    for (int i = 0; i < 4; ++i) out[i] += (g[i] - along * s.q[i]) * inverse;
}

// ---------------------------------------------------------------------------------------------- tiles

// Smallest ½·dᵀ·conic·d over a rectangle of pixel centres around which d = pixel − mean is measured.
float least_sigma(const float* conic, float x0, float x1, float y0, float y1) {
    if (x0 <= 0 && x1 >= 0 && y0 <= 0 && y1 >= 0) return 0;
    float a = conic[0], b = conic[1], c = conic[2], best = INFINITY;
    auto at = [&](float x, float y) {
        float squares = 0.5f * (a * x * x + c * y * y);
        best = std::min(best, squares + b * x * y - 1e-6f * squares);  // less what rounding may add
    };
    for (float x : {x0, x1}) at(x, std::min(std::max(-b * x / c, y0), y1));
    for (float y : {y0, y1}) at(std::min(std::max(-b * y / a, x0), x1), y);
    return best;
}

struct Grid {
    int width, height, across, down;
};

// Calls `hit(tile)` for every tile of the 3σ box in which a pixel may reach the smallest alpha that counts.
template <class F>
void tiles_of(const Grid& g, const float* mean, const float* conic, int radius, float opacity, F&& hit) {
    if (radius <= 0 || !(opacity >= ALPHA_MIN)) return;
    float limit = std::log(255.f * opacity) + 1e-3f;  // a little more than needed: the test must never cut a pixel
    auto within = [](float v, int n) { return v > 0 ? v < n ? (int)v : n : 0; };
    auto first = [&](float v, int n) { return within(std::floor(v / TILE), n); };
    auto last = [&](float v, int n) { return within(std::ceil(v / TILE), n); };
    int i0 = first(mean[1] - radius, g.down), i1 = last(mean[1] + radius, g.down);
    int j0 = first(mean[0] - radius, g.across), j1 = last(mean[0] + radius, g.across);
    for (int i = i0; i < i1; ++i)
        for (int j = j0; j < j1; ++j) {
            float x0 = j * TILE + 0.5f - mean[0], y0 = i * TILE + 0.5f - mean[1];
            if (least_sigma(conic, x0, x0 + TILE - 1, y0, y0 + TILE - 1) <= limit) hit(i * g.across + j);
        }
}

// Indices by ascending depth; equal depths keep their order. Depths are positive, so their bits sort as integers.
std::vector<int32_t> by_depth(const float* depths, const int32_t* radii, int64_t n) {
    std::vector<int32_t> order, other;
    order.reserve(n);
    for (int64_t i = 0; i < n; ++i)
        if (radii[i] > 0) order.push_back((int32_t)i);
    other.resize(order.size());
    for (int shift = 0; shift < 32; shift += 11) {
        uint32_t start[2049] = {0}, bits;
        auto digit = [&](int32_t i) {
            std::memcpy(&bits, depths + i, 4);
            return (bits >> shift) & 2047u;
        };
        for (int32_t i : order) ++start[digit(i) + 1];
        for (int k = 0; k < 2048; ++k) start[k + 1] += start[k];
        for (int32_t i : order) other[start[digit(i)]++] = i;
        order.swap(other);
    }
    return order;
}

// ---------------------------------------------------------------------------------------------- compositing

struct Gaussian2D {
    float x, y, a, b, c, opacity;
    float reach, det;  // a pixel can count only where ½·dᵀ·conic·d ≤ reach; the conic's determinant, rounded down
};

// One camera's Gaussians side by side in memory.
std::vector<Gaussian2D> load(int64_t N, const float* means, const float* conics, const float* opacities, int threads) {
    std::vector<Gaussian2D> loaded(N);
    parallel((N + CHUNK - 1) / CHUNK, threads, [&](int64_t chunk) {
        for (int64_t i = chunk * CHUNK; i < std::min<int64_t>(N, (chunk + 1) * CHUNK); ++i) {
            float a = conics[3 * i], b = conics[3 * i + 1], c = conics[3 * i + 2];
            loaded[i] = {means[2 * i], means[2 * i + 1], a, b, c, opacities[i], std::log(255.f * opacities[i]) + 1e-3f,
                         std::max(a * c - b * b - 4e-7f * a * c, 0.f)};
        }
    });
    return loaded;
}

struct Tile {
    int x0, y0, rows, columns;
    vf column[2], row[2];  // pixel centres
    Tile(const Grid& g, int index) {
        x0 = index % g.across * TILE, y0 = index / g.across * TILE;
        rows = std::min(TILE, g.height - y0), columns = std::min(TILE, g.width - x0);
        for (int h = 0; h < 2; ++h)
            for (int l = 0; l < LANES; ++l) {
                float offset = h * LANES + l + 0.5f;
                column[h][l] = x0 + offset, row[h][l] = y0 + offset;
            }
    }
};

// Which halves of each row the Gaussian's ellipse may reach: 1 the left one, 2 the right one. Never too few.
inline void halves_reached(const Gaussian2D& g, const Tile& t, vi reached[2]) {
    float tilt = g.b / g.a, inverse = 1.f / g.a;
    for (int h = 0; h < 2; ++h) {
        vf dy = splat(g.y) - t.row[h], square = splat(2.f * g.reach * g.a) - splat(g.det) * dy * dy, half;
        for (int l = 0; l < LANES; ++l) half[l] = std::sqrt(std::max(square[l], 0.f));
        half = half * splat(inverse * 1.00001f) + splat(0.01f);
        vf middle = splat(g.x) + dy * splat(tilt), low = middle - half, high = middle + half;
        vi out = square < splat(0.f);
        vi no_left = out | (low > splat(t.x0 + LANES - 0.5f)) | (high < splat(t.x0 + 0.5f));
        vi no_right = out | (low > splat(t.x0 + TILE - 0.5f)) | (high < splat(t.x0 + LANES + 0.5f));
        reached[h] = (~no_left & 1) | (~no_right & 2);
    }
}

struct Weighing {  // of one Gaussian at eight pixels
    vf dx, visibility, alpha;
    vi counts;
};

inline Weighing weigh(const Gaussian2D& g, vf column, float dy) {
    Weighing w;
    w.dx = splat(g.x) - column;
    vf sigma = (splat(0.5f * g.a) * w.dx + splat(g.b * dy)) * w.dx + splat(0.5f * g.c * dy * dy);
    w.visibility = exp_negative(-sigma);
    vf alpha = splat(g.opacity) * w.visibility;
    w.alpha = alpha > splat(ALPHA_MAX) ? splat(ALPHA_MAX) : alpha;
    w.counts = (sigma >= splat(0.f)) & (w.alpha >= splat(ALPHA_MIN));
    return w;
}

// X is the number of channels where it is known beforehand, else 0.
template <int X>
void composite_tile(const Grid& grid, int tile, const int32_t* list, int32_t count, const Gaussian2D* gaussians,
                    const float* colors, int channels, float* image, float* transmittance, int32_t* last) {
    const int C = X ? X : channels;
    Tile t(grid, tile);
    vf T[VECTORS];
    vi open[VECTORS], final_[VECTORS];  // open: all ones where the pixel takes more
    std::vector<vf> color((size_t)C * VECTORS, splat(0.f));
    int row_open[TILE], alive = 0;  // bit 1: the left half of the row takes more, bit 2: the right one
    for (int v = 0; v < VECTORS; ++v) {
        T[v] = splat(1.f), final_[v] = vi{} - 1;
        for (int l = 0; l < LANES; ++l) open[v][l] = v / 2 < t.rows && (v & 1) * LANES + l < t.columns ? -1 : 0;
        alive += any(open[v]);
    }
    for (int r = 0; r < TILE; ++r) row_open[r] = (any(open[2 * r]) ? 1 : 0) | (any(open[2 * r + 1]) ? 2 : 0);
    for (int32_t n = 0; n < count && alive; ++n) {
        const Gaussian2D g = gaussians[list[n]];
        const float* c = colors + (int64_t)C * list[n];
        vi reached[2];
        halves_reached(g, t, reached);
        for (int r = 0; r < t.rows; ++r) {
            int wanted = reached[r / LANES][r % LANES] & row_open[r];
            float dy = g.y - (t.y0 + r + 0.5f);
            for (int h = 0; h < 2; ++h) {
                if (!(wanted >> h & 1)) continue;
                int v = 2 * r + h;
                Weighing w = weigh(g, t.column[h], dy);
                vi counts = w.counts & open[v];
                vf next = T[v] * (splat(1.f) - w.alpha);
                vi stops = counts & (next <= splat(TRANSMITTANCE_MIN));
                counts &= ~stops;
                vf weight = counts ? w.alpha * T[v] : splat(0.f);
                for (int k = 0; k < C; ++k) color[k * VECTORS + v] += weight * splat(c[k]);
                T[v] = counts ? next : T[v];
                final_[v] = counts ? (vi{} + n) : final_[v];
                if (!any(stops)) continue;
                open[v] &= ~stops;
                if (!any(open[v])) row_open[r] &= ~(1 << h), --alive;
            }
        }
    }
    for (int r = 0; r < t.rows; ++r)
        for (int x = 0; x < t.columns; ++x) {
            int64_t pixel = (int64_t)(t.y0 + r) * grid.width + t.x0 + x;
            int v = 2 * r + x / LANES, l = x % LANES;
            for (int k = 0; k < C; ++k) image[pixel * C + k] = color[k * VECTORS + v][l];
            transmittance[pixel] = T[v][l];
            last[pixel] = final_[v][l];
        }
}

// What one Gaussian receives from one tile: mean (2), |mean| (2), conic (3), opacity, colours.
constexpr int SHARE = 8;

template <int X>
void backward_tile(const Grid& grid, int tile, const int32_t* list, const int32_t* slots, int32_t count,
                   const Gaussian2D* gaussians, const float* colors, int channels, const float* transmittance,
                   const int32_t* last, const float* v_image, const float* v_transmittance, float* shares) {
    const int C = X ? X : channels, stride = SHARE + C;
    Tile t(grid, tile);
    // Transmittance behind the current Gaussian; what comes from behind it, background included, times its cotangent.
    vf T[VECTORS], behind[VECTORS];
    vi end[VECTORS];
    std::vector<vf> v_color((size_t)C * VECTORS, splat(0.f)), v_colors_n(X ? 0 : C);
    vf fixed[X ? X : 1];  // sums of known number stay in registers
    vf* v_c = X ? fixed : v_colors_n.data();
    int32_t furthest = -1;
    for (int v = 0; v < VECTORS; ++v) T[v] = splat(1.f), behind[v] = splat(0.f), end[v] = vi{} - 1;
    for (int r = 0; r < t.rows; ++r)
        for (int x = 0; x < t.columns; ++x) {
            int64_t pixel = (int64_t)(t.y0 + r) * grid.width + t.x0 + x;
            int v = 2 * r + x / LANES, l = x % LANES;
            T[v][l] = transmittance[pixel];
            behind[v][l] = v_transmittance[pixel] * transmittance[pixel];
            end[v][l] = last[pixel];
            furthest = std::max(furthest, last[pixel]);
            for (int k = 0; k < C; ++k) v_color[k * VECTORS + v][l] = v_image[pixel * C + k];
        }
    for (int32_t n = std::min(count - 1, furthest); n >= 0; --n) {
        const Gaussian2D g = gaussians[list[n]];
        const float* c = colors + (int64_t)C * list[n];
        vi reached[2];
        halves_reached(g, t, reached);
        // Σ over pixels of the cotangent of σ times 1, dx, dy and their products, and of |mean|, opacity.
        vf s_x{}, s_y{}, s_xx{}, s_xy{}, s_yy{}, abs_x{}, abs_y{}, s_opacity{};
        for (int k = 0; k < C; ++k) v_c[k] = splat(0.f);
        bool touched = false;
        for (int r = 0; r < t.rows; ++r) {
            int wanted = reached[r / LANES][r % LANES];
            float dy = g.y - (t.y0 + r + 0.5f);
            for (int h = 0; h < 2; ++h) {
                if (!(wanted >> h & 1)) continue;
                int v = 2 * r + h;
                Weighing w = weigh(g, t.column[h], dy);
                vi counts = w.counts & ((vi{} + n) <= end[v]);
                if (!any(counts)) continue;
                touched = true;
                vf inverse = splat(1.f) / (splat(1.f) - w.alpha);
                T[v] = counts ? T[v] * inverse : T[v];
                vf weight = counts ? w.alpha * T[v] : splat(0.f), shade = splat(0.f);
                for (int k = 0; k < C; ++k) {
                    vf vc = v_color[k * VECTORS + v];
                    v_c[k] += weight * vc;
                    shade += splat(c[k]) * vc;
                }
                vf v_alpha = shade * T[v] - behind[v] * inverse;
                behind[v] += weight * shade;
                // A capped alpha does not move with what made it.
                vi moves = counts & (splat(g.opacity) * w.visibility <= splat(ALPHA_MAX));
                vf v_opacity = moves ? w.visibility * v_alpha : splat(0.f);
                s_opacity += v_opacity;
                vf v_sigma = -splat(g.opacity) * v_opacity, along = v_sigma * w.dx;
                s_x += along, s_xx += along * w.dx, s_xy += along * splat(dy);
                s_y += v_sigma * splat(dy), s_yy += v_sigma * splat(dy * dy);
                vf vx = splat(g.a) * along + splat(g.b * dy) * v_sigma;
                vf vy = splat(g.b) * along + splat(g.c * dy) * v_sigma;
                abs_x += vx < splat(0.f) ? -vx : vx, abs_y += vy < splat(0.f) ? -vy : vy;
            }
        }
        if (!touched) continue;
        float* share = shares + (int64_t)slots[n] * stride;
        float x = sum(s_x), y = sum(s_y);
        share[0] = g.a * x + g.b * y, share[1] = g.b * x + g.c * y, share[2] = sum(abs_x), share[3] = sum(abs_y);
        share[4] = 0.5f * sum(s_xx), share[5] = sum(s_xy), share[6] = 0.5f * sum(s_yy), share[7] = sum(s_opacity);
        for (int k = 0; k < C; ++k) share[SHARE + k] = sum(v_c[k]);
    }
}

}  // namespace

extern "C" {

void chopgrad_project(int64_t N, int C, const float* means, const float* quats, const float* scales, const float* sh,
                      int bands, int degree, const float* viewmats, const float* Ks, int width, int height, float near,
                      float far, float radius_clip, float eps, int threads, int32_t* radii, float* means2d,
                      float* depths, float* conics, float* comps, float* colors) {
    std::vector<Camera> cameras;
    for (int k = 0; k < C; ++k) cameras.push_back(load_camera(viewmats + 16 * k, Ks + 9 * k, width, height));
    parallel((N + CHUNK - 1) / CHUNK, threads, [&](int64_t chunk) {
        for (int64_t i = chunk * CHUNK; i < std::min<int64_t>(N, (chunk + 1) * CHUNK); ++i) {
            Shape s;
            load_shape(quats + 4 * i, scales + 3 * i, s);
            for (int k = 0; k < C; ++k) {
                const Camera& camera = cameras[k];
                int64_t o = (int64_t)k * N + i;
                Projected p;
                radii[o] = 0;
                if (!project(camera, means + 3 * i, s, eps, near, far, p)) continue;
                float x = camera.fx * p.p[0] / p.p[2] + camera.cx, y = camera.fy * p.p[1] / p.p[2] + camera.cy;
                float half = 0.5f * (p.a + p.c);
                float radius = std::ceil(3.f * std::sqrt(half + std::sqrt(std::max(0.01f, half * half - p.det))));
                if (!(radius > radius_clip) || x + radius <= 0 || x - radius >= width || y + radius <= 0 ||
                    y - radius >= height)
                    continue;
                radii[o] = (int32_t)std::min(radius, 1e9f);
                means2d[2 * o] = x, means2d[2 * o + 1] = y, depths[o] = p.p[2];
                conics[3 * o] = p.c / p.det, conics[3 * o + 1] = -p.b / p.det, conics[3 * o + 2] = p.a / p.det;
                comps[o] = std::sqrt(p.det0 / p.det);
                if (!sh) continue;
                float d[3], B[16];
                direction(camera, means + 3 * i, d);
                harmonics(degree, d, B, nullptr);
                const float* coefficients = sh + i * bands * 3;
                for (int c = 0; c < 3; ++c) {
                    float value = 0.5f;
                    for (int b = 0; b < (degree + 1) * (degree + 1); ++b) value += B[b] * coefficients[3 * b + c];
                    colors[3 * o + c] = std::max(value, 0.f);
                }
            }
        }
    });
}

void chopgrad_project_backward(int64_t N, int C, const float* means, const float* quats, const float* scales,
                               const float* sh, int bands, int degree, const float* viewmats, const float* Ks,
                               int width, int height, float near, float far, float eps, int threads,
                               const int32_t* radii, const float* conics, const float* colors, const float* v_means2d,
                               const float* v_depths, const float* v_conics, const float* v_comps,
                               const float* v_colors, float* v_means, float* v_quats, float* v_scales, float* v_sh,
                               float* v_viewmats) {
    std::vector<Camera> cameras;
    for (int k = 0; k < C; ++k) cameras.push_back(load_camera(viewmats + 16 * k, Ks + 9 * k, width, height));
    int64_t chunks = (N + CHUNK - 1) / CHUNK;
    std::vector<double> poses((size_t)chunks * C * 12, 0.0);  // [R | t] of each camera, a chunk's share each
    parallel(chunks, threads, [&](int64_t chunk) {
        for (int64_t i = chunk * CHUNK; i < std::min<int64_t>(N, (chunk + 1) * CHUNK); ++i) {
            const float* mean = means + 3 * i;
            Shape s;
            load_shape(quats + 4 * i, scales + 3 * i, s);
            float v_M[3][3] = {{0}};
            for (int k = 0; k < C; ++k) {
                const Camera& camera = cameras[k];
                int64_t o = (int64_t)k * N + i;
                Projected p;
                if (radii[o] <= 0 || !project(camera, mean, s, eps, near, far, p)) continue;
                float z = p.p[2], fx = camera.fx, fy = camera.fy, v_R[3][3] = {{0}}, v_t[3] = {0};
                float G[2][2];
                covariance_gradient(p, eps, conics + 3 * o, v_conics + 3 * o, v_comps[o], G);
                // cov2d = T·Tᵀ, T = J·(R·M)
                float v_T[2][3], v_J[2][3], v_camera[3][3];
                for (int a = 0; a < 2; ++a)
                    for (int b = 0; b < 3; ++b) v_T[a][b] = 2 * (G[a][0] * p.T[0][b] + G[a][1] * p.T[1][b]);
                for (int a = 0; a < 2; ++a)
                    for (int b = 0; b < 3; ++b)
                        v_J[a][b] = v_T[a][0] * p.M[b][0] + v_T[a][1] * p.M[b][1] + v_T[a][2] * p.M[b][2];
                for (int a = 0; a < 3; ++a)
                    for (int b = 0; b < 3; ++b) v_camera[a][b] = p.J[0][a] * v_T[0][b] + p.J[1][a] * v_T[1][b];
                float vu = v_means2d[2 * o], vv = v_means2d[2 * o + 1];
                float v_p[3] = {fx / z * vu, fy / z * vv,
                                v_depths[o] - (fx * p.p[0] * vu + fy * p.p[1] * vv) / (z * z)};
                v_p[2] -= (fx * v_J[0][0] + fy * v_J[1][1]) / (z * z);
                float z3 = z * z * z;
                if (p.x_free) v_p[0] -= fx / (z * z) * v_J[0][2], v_p[2] += 2 * fx * p.tx / z3 * v_J[0][2];
                else v_p[2] += fx * p.tx / z3 * v_J[0][2];
                if (p.y_free) v_p[1] -= fy / (z * z) * v_J[1][2], v_p[2] += 2 * fy * p.ty / z3 * v_J[1][2];
                else v_p[2] += fy * p.ty / z3 * v_J[1][2];
                // p = R·mean + t
                for (int a = 0; a < 3; ++a) {
                    v_t[a] += v_p[a];
                    for (int b = 0; b < 3; ++b) {
                        v_R[a][b] += v_p[a] * mean[b] + v_camera[a][0] * s.M[b][0] + v_camera[a][1] * s.M[b][1] +
                                     v_camera[a][2] * s.M[b][2];
                        v_means[3 * i + b] += camera.R[a][b] * v_p[a];
                        v_M[a][b] += camera.R[0][a] * v_camera[0][b] + camera.R[1][a] * v_camera[1][b] +
                                     camera.R[2][a] * v_camera[2][b];
                    }
                }
                if (sh) {
                    float d[3], B[16], slopes[16][3], v_d[3] = {0};
                    float length = direction(camera, mean, d);
                    harmonics(degree, d, B, slopes);
                    for (int c = 0; c < 3; ++c) {
                        float v = v_colors[3 * o + c];
                        if (colors[3 * o + c] <= 0 || v == 0) continue;  // clamped at black
                        for (int b = 0; b < (degree + 1) * (degree + 1); ++b) {
                            int64_t at = ((int64_t)i * bands + b) * 3 + c;
                            v_sh[at] += B[b] * v;
                            for (int x = 0; x < 3; ++x) v_d[x] += slopes[b][x] * sh[at] * v;
                        }
                    }
                    float along = d[0] * v_d[0] + d[1] * v_d[1] + d[2] * v_d[2];
                    float inverse = length > 0 ? 1.f / length : 0.f;
                    for (int j = 0; j < 3; ++j) {
                        float v = (v_d[j] - along * d[j]) * inverse;
                        v_means[3 * i + j] += v;
                        // position = −Rᵀt, and the direction falls with it
                        for (int a = 0; a < 3; ++a) v_R[a][j] += camera.t[a] * v, v_t[a] += camera.R[a][j] * v;
                    }
                }
                double* pose = poses.data() + ((size_t)chunk * C + k) * 12;
                for (int a = 0; a < 3; ++a) {
                    for (int b = 0; b < 3; ++b) pose[4 * a + b] += v_R[a][b];
                    pose[4 * a + 3] += v_t[a];
                }
            }
            float v_Q[3][3];  // M = Q·diag(scale)
            for (int a = 0; a < 3; ++a)
                for (int b = 0; b < 3; ++b) {
                    v_scales[3 * i + b] += v_M[a][b] * s.Q[a][b];
                    v_Q[a][b] = v_M[a][b] * scales[3 * i + b];
                }
            quaternion_gradient(s, v_Q, v_quats + 4 * i);
        }
    });
    for (int k = 0; k < C; ++k)
        for (int e = 0; e < 12; ++e) {
            double total = 0;
            for (int64_t chunk = 0; chunk < chunks; ++chunk) total += poses[((size_t)chunk * C + k) * 12 + e];
            v_viewmats[16 * k + e] = (float)total;
        }
}

// Counts the tiles each of one camera's Gaussians touches, into offsets[0…N] as running totals; returns their number.
int64_t chopgrad_count_tiles(int64_t N, const float* means2d, const float* conics, const int32_t* radii,
                             const float* opacities, int width, int height, int threads, int64_t* offsets) {
    Grid g{width, height, (width + TILE - 1) / TILE, (height + TILE - 1) / TILE};
    offsets[0] = 0;
    parallel((N + CHUNK - 1) / CHUNK, threads, [&](int64_t chunk) {
        for (int64_t i = chunk * CHUNK; i < std::min<int64_t>(N, (chunk + 1) * CHUNK); ++i) {
            int64_t count = 0;
            tiles_of(g, means2d + 2 * i, conics + 3 * i, radii[i], opacities[i], [&](int) { ++count; });
            offsets[i + 1] = count;
        }
    });
    for (int64_t i = 0; i < N; ++i) offsets[i + 1] += offsets[i];
    return offsets[N];
}

// Fills, tile after tile and by depth within a tile: `list`, the Gaussians, and `slots`, the place of each pairing in
// an array that runs over Gaussians first (so that a Gaussian's shares of gradient lie side by side).
void chopgrad_bin(int64_t N, const float* means2d, const float* conics, const int32_t* radii, const float* depths,
                  const float* opacities, int width, int height, int threads, const int64_t* offsets, int64_t* starts,
                  int32_t* list, int32_t* slots) {
    Grid g{width, height, (width + TILE - 1) / TILE, (height + TILE - 1) / TILE};
    int tiles = g.across * g.down;
    std::vector<int32_t> tile_of(offsets[N]);
    parallel((N + CHUNK - 1) / CHUNK, threads, [&](int64_t chunk) {
        for (int64_t i = chunk * CHUNK; i < std::min<int64_t>(N, (chunk + 1) * CHUNK); ++i) {
            int64_t slot = offsets[i];
            tiles_of(g, means2d + 2 * i, conics + 3 * i, radii[i], opacities[i],
                     [&](int tile) { tile_of[slot++] = tile; });
        }
    });
    std::fill(starts, starts + tiles + 1, 0);
    for (int32_t tile : tile_of) ++starts[tile + 1];
    for (int k = 0; k < tiles; ++k) starts[k + 1] += starts[k];
    std::vector<int64_t> cursor(starts, starts + tiles);
    for (int32_t i : by_depth(depths, radii, N))
        for (int64_t slot = offsets[i]; slot < offsets[i + 1]; ++slot) {
            int64_t at = cursor[tile_of[slot]]++;
            list[at] = i, slots[at] = (int32_t)slot;
        }
}

void chopgrad_composite(int64_t N, const float* means2d, const float* conics, const float* opacities,
                        const float* colors, int channels, int width, int height, int threads, const int64_t* starts,
                        const int32_t* list, float* image, float* transmittance, int32_t* last) {
    Grid g{width, height, (width + TILE - 1) / TILE, (height + TILE - 1) / TILE};
    auto gaussians = load(N, means2d, conics, opacities, threads);
    auto run = channels == 1 ? composite_tile<1> : channels == 3 ? composite_tile<3> : channels == 4 ? composite_tile<4>
                                                                                         : composite_tile<0>;
    parallel(g.across * g.down, threads, [&](int64_t tile) {
        run(g, (int)tile, list + starts[tile], (int32_t)(starts[tile + 1] - starts[tile]), gaussians.data(), colors,
            channels, image, transmittance, last);
    });
}

// `shares` [pairings, 8 + channels] arrives zeroed; gradients are written, not added to.
void chopgrad_composite_backward(int64_t N, const float* means2d, const float* conics, const float* opacities,
                                 const float* colors, int channels, int width, int height, int threads,
                                 const int64_t* offsets, const int64_t* starts, const int32_t* list,
                                 const int32_t* slots, const float* transmittance, const int32_t* last,
                                 const float* v_image, const float* v_transmittance, float* shares, float* v_means2d,
                                 float* abs_means2d, float* v_conics, float* v_opacities, float* v_colors) {
    Grid g{width, height, (width + TILE - 1) / TILE, (height + TILE - 1) / TILE};
    int stride = SHARE + channels;
    auto gaussians = load(N, means2d, conics, opacities, threads);
    auto run = channels == 1 ? backward_tile<1> : channels == 3 ? backward_tile<3> : channels == 4 ? backward_tile<4>
                                                                                       : backward_tile<0>;
    parallel(g.across * g.down, threads, [&](int64_t tile) {
        run(g, (int)tile, list + starts[tile], slots + starts[tile], (int32_t)(starts[tile + 1] - starts[tile]),
            gaussians.data(), colors, channels, transmittance, last, v_image, v_transmittance, shares);
    });
    parallel((N + CHUNK - 1) / CHUNK, threads, [&](int64_t chunk) {
        std::vector<float> total(stride);
        for (int64_t i = chunk * CHUNK; i < std::min<int64_t>(N, (chunk + 1) * CHUNK); ++i) {
            std::fill(total.begin(), total.end(), 0.f);
            for (int64_t slot = offsets[i]; slot < offsets[i + 1]; ++slot)
                for (int k = 0; k < stride; ++k) total[k] += shares[slot * stride + k];
            for (int k = 0; k < 2; ++k) v_means2d[2 * i + k] = total[k], abs_means2d[2 * i + k] = total[2 + k];
            for (int k = 0; k < 3; ++k) v_conics[3 * i + k] = total[4 + k];
            v_opacities[i] = total[7];
            for (int k = 0; k < channels; ++k) v_colors[(int64_t)channels * i + k] = total[SHARE + k];
        }
    });
}

}  // extern "C"
