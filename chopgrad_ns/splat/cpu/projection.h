// Projection of Gaussians into cameras with spherical harmonics, and what its gradient is made of.
#pragma once

#include "common.h"

namespace {

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

// Colour from harmonics, clamped at black.
void color(const Camera& k, const float* mean, int degree, const float* sh, float* out) {
    float d[3], B[16], value[3] = {0.5f, 0.5f, 0.5f};
    direction(k, mean, d);
    harmonics(degree, d, B, nullptr);
    for (int b = 0; b < (degree + 1) * (degree + 1); ++b)
        for (int c = 0; c < 3; ++c) value[c] += B[b] * sh[3 * b + c];
    for (int c = 0; c < 3; ++c) out[c] = std::max(value[c], 0.f);
}

struct PoseGradient {
    float R[3][3], t[3];
};

// Adds to the gradients of mean, M = rotation·diag(scale) and pose what comes from the 2D covariance (G), the 2D mean
// and the depth.
void shape_gradient(const Camera& k, const Projected& p, const Shape& s, const float* mean, const float G[2][2],
                    const float* v_mean2d, float v_depth, float* v_mean, float v_M[3][3], PoseGradient& v_pose) {
    // cov2d = T·Tᵀ, T = J·(R·M)
    float v_T[2][3], v_J[2][3], v_camera[3][3];
    for (int a = 0; a < 2; ++a)
        for (int b = 0; b < 3; ++b) v_T[a][b] = 2 * (G[a][0] * p.T[0][b] + G[a][1] * p.T[1][b]);
    for (int a = 0; a < 2; ++a)
        for (int b = 0; b < 3; ++b)
            v_J[a][b] = v_T[a][0] * p.M[b][0] + v_T[a][1] * p.M[b][1] + v_T[a][2] * p.M[b][2];
    for (int a = 0; a < 3; ++a)
        for (int b = 0; b < 3; ++b) v_camera[a][b] = p.J[0][a] * v_T[0][b] + p.J[1][a] * v_T[1][b];
    float z = p.p[2], z2 = z * z, z3 = z2 * z, vu = v_mean2d[0], vv = v_mean2d[1];
    float v_p[3] = {k.fx / z * vu, k.fy / z * vv, v_depth - (k.fx * p.p[0] * vu + k.fy * p.p[1] * vv) / z2};
    v_p[2] -= (k.fx * v_J[0][0] + k.fy * v_J[1][1]) / z2;
    if (p.x_free) v_p[0] -= k.fx / z2 * v_J[0][2], v_p[2] += 2 * k.fx * p.tx / z3 * v_J[0][2];
    else v_p[2] += k.fx * p.tx / z3 * v_J[0][2];
    if (p.y_free) v_p[1] -= k.fy / z2 * v_J[1][2], v_p[2] += 2 * k.fy * p.ty / z3 * v_J[1][2];
    else v_p[2] += k.fy * p.ty / z3 * v_J[1][2];
    // p = R·mean + t
    for (int a = 0; a < 3; ++a) {
        v_pose.t[a] += v_p[a];
        for (int b = 0; b < 3; ++b) {
            v_pose.R[a][b] += v_p[a] * mean[b] + v_camera[a][0] * s.M[b][0] + v_camera[a][1] * s.M[b][1] +
                              v_camera[a][2] * s.M[b][2];
            v_mean[b] += k.R[a][b] * v_p[a];
            v_M[a][b] += k.R[0][a] * v_camera[0][b] + k.R[1][a] * v_camera[1][b] + k.R[2][a] * v_camera[2][b];
        }
    }
}

// Adds to the gradients of harmonics, mean and pose what comes from the colour.
void color_gradient(const Camera& k, const float* mean, int degree, const float* sh, const float* v_color, float* v_sh,
                    float* v_mean, PoseGradient& v_pose) {
    float d[3], B[16], slopes[16][3], v_d[3] = {0};
    float length = direction(k, mean, d), inverse = length > 0 ? 1.f / length : 0.f;
    harmonics(degree, d, B, slopes);
    for (int b = 0; b < (degree + 1) * (degree + 1); ++b) {
        const float* coefficient = sh + 3 * b;
        float shade = coefficient[0] * v_color[0] + coefficient[1] * v_color[1] + coefficient[2] * v_color[2];
        for (int c = 0; c < 3; ++c) v_sh[3 * b + c] += B[b] * v_color[c];
        for (int x = 0; x < 3; ++x) v_d[x] += slopes[b][x] * shade;
    }
    float along = d[0] * v_d[0] + d[1] * v_d[1] + d[2] * v_d[2];
    for (int j = 0; j < 3; ++j) {
        float v = (v_d[j] - along * d[j]) * inverse;
        v_mean[j] += v;
        // position = −Rᵀt, and the direction falls with it
        for (int a = 0; a < 3; ++a) v_pose.R[a][j] += k.t[a] * v, v_pose.t[a] += k.R[a][j] * v;
    }
}

}  // namespace
