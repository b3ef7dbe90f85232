"""Backdrops: what each scene looks like without anybody.

Details are few and large: what a 16 x 16 latent cannot carry would only be noise to it.  Each function draws
on a `Sketch` ``s``, in picture heights from the top left; ``r`` is the `random.Random` of the free details.
"""

import math

import numpy as np

from .shapes import mix


def _sky(s, top, bottom, horizon, bands=6):
    """Flat bands instead of a gradient: a cartoon sky, and cheap to draw."""
    for i in range(bands):
        s.box("sky", 0, horizon * i / bands, 1, horizon, mix(top, bottom, i / (bands - 1)))


def forest(s, r):
    _sky(s, (150, 214, 232), (214, 240, 206), 0.7)
    s.ellipse("scenery", r.uniform(0.2, 0.8), 0.74, 0.75, 0.22, (124, 190, 112), ink=False)
    s.box("ground", 0, 0.70, 1, 1, (104, 172, 84))
    s.box("ground", 0, 0.86, 1, 1, (88, 154, 74))
    for side in (0, 1):
        x = 0.11 + 0.78 * side + r.uniform(-0.06, 0.06)
        h = r.uniform(0.0, 0.10)
        s.box("scenery", x - 0.035, 0.45, x + 0.035, 0.78, (122, 82, 54), ink=True)
        s.ellipse("scenery", x, 0.32 + h, 0.17, 0.20, (44, 122, 70))
        s.ellipse("scenery", x - 0.04, 0.27 + h, 0.08, 0.09, (72, 152, 88), ink=False)


def beach(s, r):
    _sky(s, (96, 190, 240), (206, 238, 250), 0.5)
    s.ellipse("scenery/sun", r.choice((0.16, 0.84)), 0.17, 0.10, 0.10, (255, 226, 92), ink=False)
    s.box("ground", 0, 0.48, 1, 0.72, (44, 138, 204))
    s.box("ground", 0, 0.60, 1, 0.72, (76, 176, 220))
    s.box("ground", 0, 0.70, 1, 1, (246, 220, 160))
    s.box("ground", 0, 0.69, 1, 0.73, (240, 250, 250))
    x = r.choice((0.10, 0.90))
    lean = 0.05 if x < 0.5 else -0.05
    s.limb("scenery", (x, 0.82), (x + lean, 0.40), 0.045, (168, 118, 70))
    for a in (-60, -15, 195, 240):  # palm leaves
        cx, cy = x + lean + 0.11 * math.cos(math.radians(a)), 0.38 + 0.07 * math.sin(math.radians(a)) + 0.02
        s.ellipse("scenery", cx, cy, 0.115, 0.036, (52, 150, 84), turn=(a if a < 0 else a - 180) * 0.5)


def city(s, r):
    _sky(s, (188, 176, 224), (250, 214, 200), 0.74)
    x = -0.05
    shades = [(110, 112, 150), (136, 126, 166), (92, 100, 136)]
    i = r.randrange(3)
    while x < 1:
        bw, top = r.uniform(0.20, 0.28), r.uniform(0.16, 0.42)
        s.box("scenery", x, top, x + bw, 0.76, shades[i % 3], ink=True)
        for yy in (top + 0.06, top + 0.18):
            for xx in (x + bw * 0.28, x + bw * 0.72):
                s.box("scenery", xx - 0.03, yy, xx + 0.03, yy + 0.06, (255, 232, 140))
        x, i = x + bw, i + 1
    s.box("ground", 0, 0.74, 1, 1, (120, 120, 128))
    s.box("ground", 0, 0.74, 1, 0.79, (196, 192, 188))
    for x in np.arange(0.08, 1, 0.34):
        s.box("ground", x, 0.95, x + 0.18, 0.98, (244, 240, 210))


def snow(s, r):
    _sky(s, (150, 190, 226), (222, 234, 246), 0.66)
    m, white = r.uniform(0.25, 0.75), (250, 252, 255)
    s.poly("scenery", [(m - 0.5, 0.7), (m, 0.16), (m + 0.5, 0.7)], (128, 148, 186), ink=False)
    cap = ((-0.14, 0.31), (0, 0.16), (0.14, 0.31), (0.05, 0.36), (-0.03, 0.31), (-0.09, 0.36))
    s.poly("scenery", [(m + x, y) for x, y in cap], white, ink=False)
    s.box("ground", 0, 0.68, 1, 1, (232, 240, 250))
    s.ellipse("ground", 0.3, 1.0, 0.6, 0.14, white, ink=False)
    for side in (0, 1):
        x = 0.12 + 0.76 * side + r.uniform(-0.05, 0.05)
        s.box("scenery", x - 0.025, 0.66, x + 0.025, 0.76, (110, 78, 58), ink=True)
        for y, hw in ((0.68, 0.15), (0.56, 0.12), (0.44, 0.09)):
            s.poly("scenery", [(x - hw, y), (x, y - 0.20), (x + hw, y)], (40, 112, 104))
            cap = [(x - hw * 0.42, y - 0.11), (x, y - 0.20), (x + hw * 0.42, y - 0.11)]
            s.poly("scenery", cap, white, ink=False)


def desert(s, r):
    _sky(s, (250, 176, 92), (255, 226, 150), 0.66)
    s.ellipse("scenery/sun", r.uniform(0.25, 0.75), 0.22, 0.12, 0.12, (255, 244, 190), ink=False)
    s.ellipse("ground", 0.25, 0.80, 0.55, 0.24, (222, 150, 84), ink=False)
    s.ellipse("ground", 0.9, 0.84, 0.6, 0.24, (208, 132, 72), ink=False)
    s.box("ground", 0, 0.76, 1, 1, (232, 168, 96))
    x, green = r.choice((0.13, 0.87)) + r.uniform(-0.03, 0.03), (70, 148, 88)
    for arm, y, top in ((x - 0.10, 0.58, 0.48), (x + 0.10, 0.52, 0.42)):  # a cactus
        s.limb("scenery", (arm, y), (arm, top), 0.055, green)
        s.limb("scenery", (arm, y), (x, y + 0.02), 0.055, green)
    s.limb("scenery", (x, 0.84), (x, 0.36), 0.085, green)


def bedroom(s, r):
    s.box("sky", 0, 0, 1, 0.76, (236, 198, 204))
    for x in np.arange(0.0, 1, 0.25):
        s.box("sky", x, 0, x + 0.10, 0.74, (244, 212, 214))
    s.box("ground", 0, 0.74, 1, 1, (176, 122, 84))
    s.box("ground", 0, 0.72, 1, 0.76, (250, 244, 236))
    x = r.choice((0.22, 0.78))
    s.box("scenery", x - 0.15, 0.12, x + 0.15, 0.46, (250, 248, 240), ink=True)
    s.box("scenery", x - 0.12, 0.15, x + 0.12, 0.43, (70, 88, 150))
    s.ellipse("scenery/moon", x + 0.04, 0.23, 0.045, 0.045, (255, 240, 170), ink=False)
    s.box("scenery", x - 0.012, 0.15, x + 0.012, 0.43, (250, 248, 240))
    x = 1 - x
    s.box("scenery", x - 0.012, 0.50, x + 0.012, 0.76, (120, 84, 66), ink=True)
    shade = [(x - 0.06, 0.36), (x + 0.06, 0.36), (x + 0.11, 0.52), (x - 0.11, 0.52)]
    s.poly("scenery", shade, (255, 224, 130))
    s.ellipse("ground", 0.5, 0.93, 0.42, 0.06, (96, 150, 190), ink=False)


def moon(s, r):
    s.box("sky", 0, 0, 1, 0.8, (26, 26, 62))
    x = r.choice((0.20, 0.80))
    s.ellipse("scenery", x, 0.22, 0.14, 0.14, (70, 140, 220), ink=False)
    s.ellipse("scenery", x - 0.04, 0.18, 0.06, 0.05, (92, 190, 120), ink=False)
    s.ellipse("scenery", x + 0.05, 0.28, 0.05, 0.035, (92, 190, 120), ink=False)
    for sx, sy in ((0.5, 0.10), (0.38, 0.34), (0.64, 0.36)):
        s.ellipse("scenery", sx + (0.5 - x) * 0.5, sy, 0.017, 0.017, (255, 250, 220), ink=False)
    s.ellipse("ground", 0.5, 0.98, 1, 0.30, (168, 168, 182), ink=False)
    s.box("ground", 0, 0.86, 1, 1, (168, 168, 182))
    for cx, cy, k in ((0.14, 0.82, 1), (0.86, 0.84, 0.9), (0.5, 0.97, 1.2)):
        s.ellipse("ground", cx, cy, 0.085 * k, 0.03 * k, (134, 134, 150), ink=False)


def farm(s, r):
    _sky(s, (120, 200, 246), (222, 242, 250), 0.66)
    cx = r.uniform(0.3, 0.7)
    for dx, k in ((-0.10, 0.8), (0.0, 1.1), (0.11, 0.8)):
        s.ellipse("scenery", cx + dx, 0.13, 0.09 * k, 0.055 * k, (252, 254, 255), ink=False)
    s.box("ground", 0, 0.64, 1, 1, (166, 206, 92))
    s.box("ground", 0, 0.84, 1, 1, (146, 190, 80))
    x = r.choice((0.17, 0.83))
    s.box("scenery", x - 0.15, 0.44, x + 0.15, 0.72, (204, 64, 56), ink=True)
    s.poly("scenery", [(x - 0.19, 0.45), (x - 0.10, 0.28), (x + 0.10, 0.28), (x + 0.19, 0.45)], (120, 60, 58))
    s.box("scenery", x - 0.06, 0.54, x + 0.06, 0.72, (250, 240, 226), ink=True)
    x = 1 - x
    s.box("scenery", x - 0.17, 0.63, x + 0.17, 0.665, (250, 246, 236), ink=True)
    for dx in (-0.12, 0.0, 0.12):
        s.box("scenery", x + dx - 0.02, 0.57, x + dx + 0.02, 0.74, (250, 246, 236), ink=True)


BACKDROPS = {f.__name__: f for f in (forest, beach, city, snow, desert, bedroom, moon, farm)}
