// Compositing of one tile, front to back, and its gradient, back to front.
#pragma once

#include "tiles.h"

namespace {

constexpr int VECTORS = TILE * TILE / LANES;  // of one tile: the left halves of its rows, then the right ones
constexpr float ALPHA_MAX = 0.999f;
constexpr float TRANSMITTANCE_MIN = 1e-4f;

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

    // Calls `job(vector, lane, pixel)` for every pixel.
    template <class F>
    void each_pixel(const Grid& g, F&& job) const {
        for (int r = 0; r < rows; ++r)
            for (int x = 0; x < columns; ++x)
                job(x / LANES * TILE + r, x % LANES, (int64_t)(y0 + r) * g.width + x0 + x);
    }
};

// A Gaussian's exponent along the rows of a tile: σ = (½a·dx + b·dy)·dx + ½c·dy².
struct Rows {
    float a, half_a, dy[TILE], linear[TILE], constant[TILE];
    Rows(const Gaussian2D& g, const Tile& t) : a(g.a), half_a(0.5f * g.a) {
        for (int h = 0; h < 2; ++h) {
            vf d = splat(g.y) - t.row[h], l = splat(g.b) * d, c = splat(0.5f * g.c) * d * d;
            std::memcpy(dy + LANES * h, &d, sizeof d);
            std::memcpy(linear + LANES * h, &l, sizeof l);
            std::memcpy(constant + LANES * h, &c, sizeof c);
        }
    }
};

// The vectors that the Gaussian's ellipse may reach, one bit each. Never too few.
inline uint32_t vectors_reached(const Gaussian2D& g, const Tile& t) {
    float tilt = g.b / g.a, inverse = 1.f / g.a;
    float det = std::max(g.a * g.c - g.b * g.b - 4e-7f * g.a * g.c, 0.f);  // of the conic, rounded down
    uint32_t reached = 0;
    for (int h = 0; h < 2; ++h) {
        vf dy = splat(g.y) - t.row[h], square = splat(2.f * g.reach * g.a) - splat(det) * dy * dy, half;
        half = root(most(square, splat(0.f))) * splat(inverse * 1.00001f) + splat(0.01f);
        vf middle = splat(g.x) + dy * splat(tilt), low = middle - half, high = middle + half;
        vi in = square >= splat(0.f);
        vi left = in & (low <= splat(t.x0 + LANES - 0.5f)) & (high >= splat(t.x0 + 0.5f));
        vi right = in & (low <= splat(t.x0 + TILE - 0.5f)) & (high >= splat(t.x0 + LANES + 0.5f));
        reached |= (bits(left) | bits(right) << TILE) << LANES * h;
    }
    return reached;
}

struct Weighing {  // of one Gaussian at eight pixels
    vf dx, visibility, alpha;
    vi counts;
};

inline Weighing weigh(const Gaussian2D& g, const Rows& rows, vf column, int r) {
    Weighing w;
    w.dx = splat(g.x) - column;
    vf sigma = (splat(rows.half_a) * w.dx + splat(rows.linear[r])) * w.dx + splat(rows.constant[r]);
    w.visibility = exp_negative(-sigma);
    vf alpha = splat(g.opacity) * w.visibility;
    w.alpha = least(alpha, splat(ALPHA_MAX));
    w.counts = (sigma >= splat(0.f)) & (w.alpha >= splat(ALPHA_MIN));
    return w;
}

struct Picture {  // what forward leaves for backward; `last` is the place in its tile's list of the last Gaussian in
    float* transmittance;  // each pixel, `hits` holds for each pairing the vectors in which it counted
    int32_t *last, *hits;
};

// X is the number of channels where it is known beforehand, else 0.
template <int X>
void composite_tile(const Grid& grid, int tile, const int32_t* list, int64_t start, int32_t count,
                    const Gaussian2D* sorted, const float* colors, int channels, float* image, float* alpha,
                    const Picture& picture) {
    const int C = X ? X : channels;
    Tile t(grid, tile);
    list += start;
    int32_t* hits = picture.hits + start;
    vf T[VECTORS];
    vi open[VECTORS], final_[VECTORS];  // open: all ones where the pixel takes more
    std::vector<vf> color((size_t)C * VECTORS, splat(0.f));
    uint32_t alive = 0;  // vectors of which a pixel is open
    for (int v = 0; v < VECTORS; ++v) {
        T[v] = splat(1.f), final_[v] = vi{} - 1;
        for (int l = 0; l < LANES; ++l) open[v][l] = v % TILE < t.rows && v / TILE * LANES + l < t.columns ? -1 : 0;
        alive |= (uint32_t)any(open[v]) << v;
    }
    int32_t n = 0;
    for (; n < count && alive; ++n) {
        const Gaussian2D& g = sorted[list[n]];
        const float* c = colors + (int64_t)C * g.index;
        Rows rows(g, t);
        uint32_t hit = 0;
        // One loop over the bits that are set: a branch for each row would be mispredicted once a row.
        for (uint32_t rest = vectors_reached(g, t) & alive; rest; rest &= rest - 1) {
            int v = __builtin_ctz(rest);
            Weighing w = weigh(g, rows, t.column[v / TILE], v % TILE);
            vi counts = w.counts & open[v];
            vf next = T[v] * (splat(1.f) - w.alpha);
            vi stops = counts & (next <= splat(TRANSMITTANCE_MIN));
            counts &= ~stops;
            vf weight = keep(counts, w.alpha * T[v]);
            for (int k = 0; k < C; ++k) color[k * VECTORS + v] += weight * splat(c[k]);
            T[v] = select(counts, next, T[v]);
            final_[v] = select(counts, vi{} + n, final_[v]);
            hit |= (uint32_t)any(counts) << v;
            if (!any(stops)) continue;
            open[v] &= ~stops;
            if (!any(open[v])) alive &= ~(1u << v);
        }
        hits[n] = (int32_t)hit;
    }
    std::fill(hits + n, hits + count, 0);
    t.each_pixel(grid, [&](int v, int l, int64_t pixel) {
        for (int k = 0; k < C; ++k) image[pixel * C + k] = color[k * VECTORS + v][l];
        alpha[pixel] = 1.f - T[v][l];
        picture.transmittance[pixel] = T[v][l];
        picture.last[pixel] = final_[v][l];
    });
}

// What one Gaussian receives from one tile: mean (2), |mean| (2), conic (3), opacity, colours.
constexpr int SHARE = 8;

template <int X, bool ABSOLUTE>
void backward_tile(const Grid& grid, int tile, const int32_t* list, const int32_t* slots, int64_t start, int32_t count,
                   const Gaussian2D* sorted, const float* colors, int channels, const Picture& picture,
                   const float* v_image, const float* v_alpha, float* shares) {
    const int C = X ? X : channels, stride = SHARE + C;
    Tile t(grid, tile);
    list += start, slots += start;
    const int32_t* hits = picture.hits + start;
    // Transmittance behind the current Gaussian; what comes from behind it, background included, times its cotangent.
    vf T[VECTORS], behind[VECTORS];
    vi end[VECTORS];
    std::vector<vf> v_color((size_t)C * VECTORS, splat(0.f)), v_colors_n(X ? 0 : C);
    vf fixed[X ? X : 1];  // sums of known number stay in registers
    vf* v_c = X ? fixed : v_colors_n.data();
    for (int v = 0; v < VECTORS; ++v) T[v] = splat(1.f), behind[v] = splat(0.f), end[v] = vi{} - 1;
    t.each_pixel(grid, [&](int v, int l, int64_t pixel) {
        T[v][l] = picture.transmittance[pixel];
        behind[v][l] = -v_alpha[pixel] * picture.transmittance[pixel];
        end[v][l] = picture.last[pixel];
        for (int k = 0; k < C; ++k) v_color[k * VECTORS + v][l] = v_image[pixel * C + k];
    });
    for (int32_t n = count - 1; n >= 0; --n) {
        float* share = shares + (int64_t)slots[n] * stride;
        if (!hits[n]) {
            std::fill(share, share + stride, 0.f);
            continue;
        }
        const Gaussian2D& g = sorted[list[n]];
        const float* c = colors + (int64_t)C * g.index;
        Rows rows(g, t);
        // Σ over pixels of the cotangent of σ times 1, dx, dy and their products; of |mean|.
        vf s{}, s_x{}, s_y{}, s_xx{}, s_xy{}, s_yy{}, abs_x{}, abs_y{};
        for (int k = 0; k < C; ++k) v_c[k] = splat(0.f);
        for (uint32_t rest = (uint32_t)hits[n]; rest; rest &= rest - 1) {
            int v = __builtin_ctz(rest), r = v % TILE;
            Weighing w = weigh(g, rows, t.column[v / TILE], r);
            vi counts = w.counts & ((vi{} + n) <= end[v]);
            vf inverse = splat(1.f) / (splat(1.f) - w.alpha);
            T[v] = select(counts, T[v] * inverse, T[v]);
            vf weight = keep(counts, w.alpha * T[v]), shade = splat(0.f);
            for (int k = 0; k < C; ++k) {
                vf vc = v_color[k * VECTORS + v];
                v_c[k] += weight * vc;
                shade += splat(c[k]) * vc;
            }
            vf v_alpha = shade * T[v] - behind[v] * inverse;
            behind[v] += weight * shade;
            // A capped alpha does not move with what made it.
            vf raw = splat(g.opacity) * w.visibility;
            vf v_sigma = keep(counts & (raw <= splat(ALPHA_MAX)), -raw * v_alpha);
            vf dy = splat(rows.dy[r]), along = v_sigma * w.dx, across = v_sigma * dy;
            s += v_sigma, s_x += along, s_y += across;
            s_xx += along * w.dx, s_xy += along * dy, s_yy += across * dy;
            if (ABSOLUTE) {
                vf vx = splat(g.a) * along + splat(rows.linear[r]) * v_sigma;
                vf vy = splat(g.b) * along + splat(g.c) * across;
                abs_x += absolute(vx), abs_y += absolute(vy);
            }
        }
        float x = sum(s_x), y = sum(s_y);
        share[0] = g.a * x + g.b * y, share[1] = g.b * x + g.c * y, share[2] = sum(abs_x), share[3] = sum(abs_y);
        share[4] = 0.5f * sum(s_xx), share[5] = sum(s_xy), share[6] = 0.5f * sum(s_yy);
        share[7] = -sum(s) / g.opacity;
        for (int k = 0; k < C; ++k) share[SHARE + k] = sum(v_c[k]);
    }
}

// Sums the shares of each Gaussian, in the order of its tiles, into arrays that are written, not added to.
void gather_shares(int64_t N, int channels, int threads, const int32_t* order, const int64_t* offsets,
                   const float* shares, float* v_means, float* abs_means, float* v_conics, float* v_opacities,
                   float* v_colors) {
    int stride = SHARE + channels;
    parallel((N + CHUNK - 1) / CHUNK, threads, [&](int64_t chunk) {
        std::vector<float> total(stride);
        for (int64_t rank = chunk * CHUNK; rank < std::min<int64_t>(N, (chunk + 1) * CHUNK); ++rank) {
            std::fill(total.begin(), total.end(), 0.f);
            for (int64_t slot = offsets[rank]; slot < offsets[rank + 1]; ++slot)
                for (int k = 0; k < stride; ++k) total[k] += shares[slot * stride + k];
            int64_t i = order[rank];
            for (int k = 0; k < 2; ++k) v_means[2 * i + k] = total[k];
            if (abs_means)
                for (int k = 0; k < 2; ++k) abs_means[2 * i + k] = total[2 + k];
            for (int k = 0; k < 3; ++k) v_conics[3 * i + k] = total[4 + k];
            v_opacities[i] = total[7];
            for (int k = 0; k < channels; ++k) v_colors[(int64_t)channels * i + k] = total[SHARE + k];
        }
    });
}

}  // namespace
