// Gaussian splatting on a CPU behind a plain C ABI: projection with spherical harmonics, tile binning, compositing,
// and the hand-written gradients of all three. Conventions are gsplat's (see rasterize.py).
//
// Results do not depend on the number of threads: work is cut into chunks of fixed size, every chunk writes places of
// its own, and what several chunks contribute to is summed afterwards in the order of the chunks.

#include "compositing.h"
#include "projection.h"

extern "C" {

void chopgrad_project(int64_t N, int C, const float* means, const float* quats, const float* scales, const float* sh,
                      int bands, int degree, const float* viewmats, const float* Ks, int width, int height, float near,
                      float far, float radius_clip, float eps, int threads, int32_t* radii, float* means2d,
                      float* depths, float* conics, float* comps, float* colors) {
    std::vector<Camera> cameras;
    for (int k = 0; k < C; ++k) cameras.push_back(load_camera(viewmats + 16 * k, Ks + 9 * k, width, height));
    each_gaussian(N, threads, [&](int64_t i) {
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
            if (sh) color(camera, means + 3 * i, degree, sh + i * bands * 3, colors + 3 * o);
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
    each_gaussian(N, threads, [&](int64_t i) {
        const float* mean = means + 3 * i;
        Shape s;
        load_shape(quats + 4 * i, scales + 3 * i, s);
        float v_M[3][3] = {{0}};
        for (int k = 0; k < C; ++k) {
            int64_t o = (int64_t)k * N + i;
            Projected p;
            if (radii[o] <= 0 || !project(cameras[k], mean, s, eps, near, far, p)) continue;
            PoseGradient v_pose{};
            float G[2][2];
            covariance_gradient(p, eps, conics + 3 * o, v_conics + 3 * o, v_comps[o], G);
            shape_gradient(cameras[k], p, s, mean, G, v_means2d + 2 * o, v_depths[o], v_means + 3 * i, v_M, v_pose);
            if (sh) {
                float v_color[3];  // nothing where the colour was clamped at black
                for (int c = 0; c < 3; ++c) v_color[c] = colors[3 * o + c] > 0 ? v_colors[3 * o + c] : 0.f;
                color_gradient(cameras[k], mean, degree, sh + i * bands * 3, v_color, v_sh + i * bands * 3,
                               v_means + 3 * i, v_pose);
            }
            double* pose = poses.data() + ((size_t)(i / CHUNK) * C + k) * 12;
            for (int a = 0; a < 3; ++a) {
                for (int b = 0; b < 3; ++b) pose[4 * a + b] += v_pose.R[a][b];
                pose[4 * a + 3] += v_pose.t[a];
            }
        }
        float v_Q[3][3];  // M = Q·diag(scale)
        for (int a = 0; a < 3; ++a)
            for (int b = 0; b < 3; ++b) {
                v_scales[3 * i + b] += v_M[a][b] * s.Q[a][b];
                v_Q[a][b] = v_M[a][b] * scales[3 * i + b];
            }
        quaternion_gradient(s, v_Q, v_quats + 4 * i);
    });
    for (int k = 0; k < C; ++k)
        for (int e = 0; e < 12; ++e) {
            double total = 0;
            for (int64_t chunk = 0; chunk < chunks; ++chunk) total += poses[((size_t)chunk * C + k) * 12 + e];
            v_viewmats[16 * k + e] = (float)total;
        }
}

// Lays one camera's Gaussians out by depth (`order` [N], `sorted` [N, 8]) and counts the tiles each touches: `offsets`
// [N + 1] are running totals, the last of which is returned. `touched` [N] is handed on to `chopgrad_bin`.
int64_t chopgrad_sort(int64_t N, const float* means2d, const float* conics, const int32_t* radii, const float* depths,
                      const float* opacities, int width, int height, int threads, int32_t* order, float* sorted,
                      int64_t* touched, int64_t* offsets) {
    return sort_and_count(Grid(width, height), N, means2d, conics, radii, depths, opacities, threads, order,
                          (Gaussian2D*)sorted, (uint64_t*)touched, offsets);
}

// `starts` [tiles + 1], `list` and `slots` [pairings]: see `bin`.
void chopgrad_bin(int64_t N, const int32_t* radii, const float* sorted, const int64_t* touched, const int64_t* offsets,
                  int width, int height, int threads, int64_t* starts, int32_t* list, int32_t* slots) {
    bin(Grid(width, height), N, radii, (const Gaussian2D*)sorted, (const uint64_t*)touched, offsets, threads, starts,
        list, slots);
}

void chopgrad_composite(const float* sorted, const float* colors, int channels, int width, int height, int threads,
                        const int64_t* starts, const int32_t* list, float* image, float* alpha, float* transmittance,
                        int32_t* last, int32_t* hits) {
    Grid g(width, height);
    auto run = channels == 1 ? composite_tile<1> : channels == 3 ? composite_tile<3> : channels == 4 ? composite_tile<4>
                                                                                         : composite_tile<0>;
    parallel(g.across * g.down, threads, [&](int64_t tile) {
        run(g, (int)tile, list, starts[tile], (int32_t)(starts[tile + 1] - starts[tile]), (const Gaussian2D*)sorted,
            colors, channels, image, alpha, {transmittance, last, hits});
    });
}

// `shares` [pairings, 8 + channels] is scratch; `abs_means2d` may be null.
void chopgrad_composite_backward(int64_t N, const int32_t* order, const float* sorted, const float* colors,
                                 int channels, int width, int height, int threads, const int64_t* offsets,
                                 const int64_t* starts, const int32_t* list, const int32_t* slots,
                                 float* transmittance, int32_t* last, int32_t* hits, const float* v_image,
                                 const float* v_alpha, float* shares, float* v_means2d, float* abs_means2d,
                                 float* v_conics, float* v_opacities, float* v_colors) {
    Grid g(width, height);
    auto choose = [&](auto absolute) {
        constexpr bool A = decltype(absolute)::value;
        return channels == 1   ? backward_tile<1, A>
               : channels == 3 ? backward_tile<3, A>
               : channels == 4 ? backward_tile<4, A>
                               : backward_tile<0, A>;
    };
    auto run = abs_means2d ? choose(std::true_type()) : choose(std::false_type());
    parallel(g.across * g.down, threads, [&](int64_t tile) {
        run(g, (int)tile, list, slots, starts[tile], (int32_t)(starts[tile + 1] - starts[tile]),
            (const Gaussian2D*)sorted, colors, channels, {transmittance, last, hits}, v_image, v_alpha, shares);
    });
    gather_shares(N, channels, threads, order, offsets, shares, v_means2d, abs_means2d, v_conics, v_opacities,
                  v_colors);
}

}  // extern "C"
