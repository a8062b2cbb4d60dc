// Which Gaussians of one camera touch which tile, front to back.
#pragma once

#include "common.h"

namespace {

constexpr int TILE = 16;
constexpr float ALPHA_MIN = 1.f / 255.f;

struct Grid {
    int width, height, across, down;
    Grid(int width, int height)
        : width(width), height(height), across((width + TILE - 1) / TILE), down((height + TILE - 1) / TILE) {}
};

// A projected Gaussian. They lie in memory by depth; its place there is its rank.
struct Gaussian2D {
    float x, y, a, b, c, opacity;  // mean, conic
    float reach;                   // a pixel can count only where ½·dᵀ·conic·d ≤ reach
    int32_t index;                 // of the Gaussian in the caller's arrays
};

// Indices by ascending depth, equal depths in their own order; what is not drawn comes last. Depths are positive, so
// their bits sort as integers.
void by_depth(const float* depths, const int32_t* radii, int64_t N, int32_t* order) {
    struct Entry {
        uint32_t key;
        int32_t index;
    };
    constexpr int DIGIT = 11, PASSES = 3, VALUES = 1 << DIGIT;
    std::vector<Entry> entries, other;
    std::vector<int64_t> starts((size_t)PASSES * (VALUES + 1), 0);
    entries.reserve(N);
    int64_t hidden = N;
    for (int64_t i = N - 1; i >= 0; --i)
        if (radii[i] <= 0) order[--hidden] = (int32_t)i;
    for (int64_t i = 0; i < N; ++i) {
        if (radii[i] <= 0) continue;
        uint32_t key;
        std::memcpy(&key, depths + i, sizeof key);
        entries.push_back({key, (int32_t)i});
        for (int p = 0; p < PASSES; ++p) ++starts[p * (VALUES + 1) + (key >> DIGIT * p) % VALUES + 1];
    }
    other.resize(entries.size());
    for (int p = 0; p < PASSES; ++p) {
        int64_t* start = starts.data() + p * (VALUES + 1);
        for (int k = 0; k < VALUES; ++k) start[k + 1] += start[k];
        for (const Entry& e : entries) other[start[(e.key >> DIGIT * p) % VALUES]++] = e;
        entries.swap(other);
    }
    for (size_t k = 0; k < entries.size(); ++k) order[k] = entries[k].index;
}

// Smallest ½·dᵀ·conic·d over a rectangle of pixel centres around which d = pixel − mean is measured.
float least_sigma(const Gaussian2D& g, float x0, float x1, float y0, float y1) {
    if (x0 <= 0 && x1 >= 0 && y0 <= 0 && y1 >= 0) return 0;
    float best = INFINITY;
    auto at = [&](float x, float y) {
        float squares = 0.5f * (g.a * x * x + g.c * y * y);
        best = std::min(best, squares + g.b * x * y - 1e-6f * squares);  // less what rounding may add
    };
    for (float x : {x0, x1}) at(x, std::min(std::max(-g.b * x / g.c, y0), y1));
    for (float y : {y0, y1}) at(std::min(std::max(-g.b * y / g.a, x0), x1), y);
    return best;
}

// The tiles of a Gaussian's 3σ box, and which of them hold a pixel that may reach the smallest alpha that counts.
struct Box {
    int top, bottom, left, right;

    Box(const Grid& grid, const Gaussian2D& g, int radius) {
        auto within = [](float v, int n) { return v > 0 ? v < n ? (int)v : n : 0; };
        top = within(std::floor((g.y - radius) / TILE), grid.down);
        bottom = within(std::ceil((g.y + radius) / TILE), grid.down);
        left = within(std::floor((g.x - radius) / TILE), grid.across);
        right = within(std::ceil((g.x + radius) / TILE), grid.across);
    }

    bool fits_bits() const { return (int64_t)(bottom - top) * (right - left) <= 64; }

    // Calls `hit(row, column)` for every tile that the Gaussian may touch.
    template <class F>
    void test(const Gaussian2D& g, F&& hit) const {
        if (!(g.opacity >= ALPHA_MIN)) return;
        for (int i = top; i < bottom; ++i)
            for (int j = left; j < right; ++j) {
                float x0 = j * TILE + 0.5f - g.x, y0 = i * TILE + 0.5f - g.y;
                if (least_sigma(g, x0, x0 + TILE - 1, y0, y0 + TILE - 1) <= g.reach) hit(i, j);
            }
    }
};

// Lays the Gaussians out by depth and counts the tiles of each: `offsets` [N + 1] are running totals by rank, `touched`
// [N] remembers which tiles of a small box they are. Returns the number of pairings.
int64_t sort_and_count(const Grid& grid, int64_t N, const float* means, const float* conics, const int32_t* radii,
                       const float* depths, const float* opacities, int threads, int32_t* order, Gaussian2D* sorted,
                       uint64_t* touched, int64_t* offsets) {
    by_depth(depths, radii, N, order);
    offsets[0] = 0;
    each_gaussian(N, threads, [&](int64_t rank) {
        int64_t i = order[rank];
        Gaussian2D& g = sorted[rank];
        // The reach is a little more than needed: the tests of tiles and rows must never cut a pixel.
        g = {means[2 * i], means[2 * i + 1], conics[3 * i], conics[3 * i + 1], conics[3 * i + 2], opacities[i],
             std::log(255.f * opacities[i]) + 1e-3f, (int32_t)i};
        int64_t count = 0;
        uint64_t found = 0;
        if (radii[i] > 0) {
            Box box(grid, g, radii[i]);
            bool small = box.fits_bits();
            box.test(g, [&](int row, int column) {
                ++count;
                if (small) found |= uint64_t{1} << ((row - box.top) * (box.right - box.left) + column - box.left);
            });
        }
        touched[rank] = found, offsets[rank + 1] = count;
    });
    for (int64_t rank = 0; rank < N; ++rank) offsets[rank + 1] += offsets[rank];
    return offsets[N];
}

// Fills, tile after tile and by depth within a tile: `list`, the ranks, and `slots`, the place of each pairing in an
// array that runs over ranks first (so that a Gaussian's shares of gradient lie side by side).
void bin(const Grid& grid, int64_t N, const int32_t* radii, const Gaussian2D* sorted, const uint64_t* touched,
         const int64_t* offsets, int threads, int64_t* starts, int32_t* list, int32_t* slots) {
    int tiles = grid.across * grid.down;
    int64_t blocks = std::max(threads, 1), length = (N + blocks - 1) / blocks;
    auto each_tile = [&](int64_t rank, auto&& hit) {
        if (offsets[rank] == offsets[rank + 1]) return;
        Box box(grid, sorted[rank], radii[sorted[rank].index]);
        auto tile = [&](int row, int column) { hit(row * grid.across + column); };
        if (!box.fits_bits()) return box.test(sorted[rank], tile);
        int across = box.right - box.left;
        for (uint64_t rest = touched[rank]; rest; rest &= rest - 1) {
            int k = __builtin_ctzll(rest);
            tile(box.top + k / across, box.left + k % across);
        }
    };
    // A counting sort by tile in which every block of ranks has cursors of its own; the result knows no blocks.
    std::vector<int64_t> cursors((size_t)blocks * tiles, 0);
    auto each_rank = [&](int64_t block, auto&& job) {
        for (int64_t rank = block * length; rank < std::min(N, (block + 1) * length); ++rank) job(rank);
    };
    parallel(blocks, threads, [&](int64_t block) {
        int64_t* cursor = cursors.data() + block * tiles;
        each_rank(block, [&](int64_t rank) { each_tile(rank, [&](int tile) { ++cursor[tile]; }); });
    });
    int64_t total = 0;
    for (int tile = 0; tile < tiles; ++tile) {
        starts[tile] = total;
        for (int64_t block = 0; block < blocks; ++block) {
            int64_t count = cursors[block * tiles + tile];
            cursors[block * tiles + tile] = total, total += count;
        }
    }
    starts[tiles] = total;
    parallel(blocks, threads, [&](int64_t block) {
        int64_t* cursor = cursors.data() + block * tiles;
        each_rank(block, [&](int64_t rank) {
            int64_t slot = offsets[rank];
            each_tile(rank, [&](int tile) {
                int64_t at = cursor[tile]++;
                list[at] = (int32_t)rank, slots[at] = (int32_t)slot++;
            });
        });
    });
}

}  // namespace
