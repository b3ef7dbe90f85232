"""Bodies: how a character is drawn, a method for each part of the body.

Own coordinates: feet at (0, 0), crown near y = 1 upwards, x to the right of somebody who looks right.
"""

import math

import numpy as np

from .pictures import Actor, pose
from .shapes import Sketch, mix
from .vocabulary import ACCESSORY_COLOUR, FUR, INK, OUTFIT, PEOPLE, SKIN

WHITE, METAL = (255, 255, 255), (96, 100, 116)
SIDES = (("l", -1), ("r", 1))


class Body:
    """One actor of a picture.

    Parameters
    ----------
    sketch : Sketch
        What it is drawn on.
    index : int
        The actor's number in the picture.
    actor : Actor
    """

    def __init__(self, sketch: Sketch, index: int, actor: Actor):
        self.sketch, self.index, self.actor = sketch, index, actor
        self.pose = p = actor.pose or pose(actor.action, actor.phase)
        c = actor.character
        self.species, self.accessory = c.species, c.accessory
        self.person, self.robot = c.species in PEOPLE, c.species == "robot"
        self.fur, self.cloth, self.trim = FUR[c.fur], OUTFIT[c.outfit], ACCESSORY_COLOUR[c.accessory_colour]
        self.flesh = SKIN[c.skin] if self.person else self.fur
        self.hip = 0.20 - p.drop + 0.10 * p.bench
        self.head_y = self.hip + 0.50  # the head's centre

    def draw(self):
        """Lay down every part, from the back to the front."""
        s, p = self.sketch, self.pose
        s.actor = self.index
        s.frame = self.frame()
        self.draw_ground()
        # the body turns about the feet; somebody lying is moved so that the middle stays at x
        lie = min(1.0, abs(p.lean) / 84)
        aside = -0.52 * lie * math.copysign(1, p.lean) if lie > 0.2 else 0.0
        s.frame = self.frame(p.lean, p.lift + 0.02 * lie, aside)
        s.joint("hip", 0, self.hip)
        self.draw_tail()
        self.draw_long_hair()
        self.draw_legs()
        self.draw_balloon()
        if p.book <= 0:  # arms that hold a book are drawn with it
            self.draw_arms()
        self.draw_torso()
        self.draw_ears()
        self.draw_head()
        self.draw_hair()
        self.draw_muzzle()
        self.draw_eyes_and_cheeks()
        self.draw_mouth()
        self.draw_accessory()
        if p.book > 0:
            self.draw_arms()
            self.draw_book()
        if p.eyes <= 0.5:
            s.frame = self.frame()
            self.draw_sleep()
        s.frame = s.actor = None

    def frame(self, turn=0.0, up=0.0, dx=0.0):
        """`Sketch.frame` of a body turned clockwise by ``turn`` degrees, moved up and to where it looks."""
        a, t = self.actor, math.radians(turn)
        k, cos, sin = a.scale, math.cos(t), math.sin(t)
        # own (x, y up) -> turned clockwise -> mirrored by `look` -> picture (y down)
        m = np.array([[cos * k * a.look, sin * k], [sin * k * a.look, -cos * k]])
        return m, np.array([a.x + dx * k * a.look, a.y - up * k]), k

    # On the ground

    def draw_ground(self):
        """Shadow, mat and bench."""
        s, p, m, b = self.sketch, self.pose, self.pose.mat, self.pose.bench
        low = max(0.35, 1 - 2.2 * p.lift * (1 - m))
        if m < 0.5:
            s.ellipse("shadow", 0, 0.0, 0.27 * low, 0.045 * low, (70, 62, 84), ink=False)
        if m > 0:
            corners = [(-0.66 * m, -0.06), (0.66 * m, -0.06), (0.58 * m, 0.09), (-0.58 * m, 0.09)]
            s.poly("prop", corners, (94, 196, 190))
            s.ellipse("prop", 0.42 * m, 0.16, 0.17 * m, 0.10 * m, (250, 250, 255))
        if b > 0:
            for x in (-0.30, 0.30):
                s.limb("prop", (x, 0.18 * b), (x, 0.0), 0.06, (136, 90, 54))
            s.limb("prop", (-0.38 * b, 0.20 * b), (0.38 * b, 0.20 * b), 0.09, (176, 120, 70))

    # Behind the body

    def draw_tail(self):
        s, hip = self.sketch, self.hip
        if self.species == "cat":
            s.limb("tail", (-0.10, hip + 0.02), (-0.30, hip + 0.10), 0.07, self.fur)
            s.limb("tail", (-0.30, hip + 0.10), (-0.33, hip + 0.27), 0.07, self.fur)
        elif self.species == "rabbit":
            s.ellipse("tail", -0.19, hip + 0.02, 0.065, 0.06, mix(self.fur, WHITE, 0.5))

    def draw_long_hair(self):
        if self.species == "girl":
            self.sketch.ellipse("hair", 0, self.head_y - 0.06, 0.305, 0.30, self.fur)

    # Limbs and what the hands hold

    def draw_legs(self):
        s, p, hip = self.sketch, self.pose, self.hip
        trouser = (70, 84, 130) if self.species == "boy" else self.flesh
        shoe = (96, 70, 60) if self.person else METAL if self.robot else mix(self.fur, WHITE, 0.25)
        for (side, d), angle in zip(SIDES, (p.leg_l, p.leg_r), strict=True):
            t = math.radians(angle)
            x0, length = d * 0.085, 0.17 + 0.03 * p.bench
            x, y = x0 + d * length * math.sin(t), hip - length * math.cos(t)
            s.limb(f"leg_{side}", (x0, hip), (x, y), 0.115, trouser)
            s.ellipse(f"leg_{side}", x + 0.025, y, 0.082, 0.052, shoe)
            s.joint(f"foot_{side}", x, y)

    def arm(self, d, angle):
        """Where the shoulder and the hand of a side are, (x, y) each."""
        t, x, y, length = math.radians(angle), d * 0.145, self.hip + 0.235, 0.245
        return (x, y), (x + d * length * math.sin(t), y - length * math.cos(t))

    def draw_arms(self):
        s = self.sketch
        for (side, d), angle in zip(SIDES, (self.pose.arm_l, self.pose.arm_r), strict=True):
            (x0, y0), (x1, y1) = self.arm(d, angle)
            cuff = x0 + 0.62 * (x1 - x0), y0 + 0.62 * (y1 - y0)
            s.limb(f"arm_{side}", (x0, y0), (x1, y1), 0.085, self.flesh)
            s.limb(f"arm_{side}", (x0, y0), cuff, 0.115, self.cloth)
            s.ellipse(f"arm_{side}", x1, y1, 0.056, 0.056, self.flesh)
            s.joint(f"hand_{side}", x1, y1)

    def draw_balloon(self):
        s, b = self.sketch, self.pose.balloon
        if b > 0:
            _, (x, y) = self.arm(1, self.pose.arm_r)
            top = y + 0.42 * b
            s.limb("prop/string", (x, y), (x + 0.03, top), 0.022, (250, 250, 250), ink=False)
            s.ellipse("prop/balloon", x + 0.03, top + 0.10 * b, 0.15 * b, 0.175 * b, (232, 50, 70))
            shine = (255, 170, 176)
            s.ellipse("prop/balloon", x - 0.02, top + 0.16 * b, 0.035 * b, 0.05 * b, shine, ink=False)

    def draw_book(self):
        """The book, held in front of the body, and the hands at its sides."""
        s, b, y = self.sketch, self.pose.book, self.hip + 0.06
        for _, d in SIDES:
            x = d * 0.23 * b
            s.poly("prop", [(0, y - 0.10), (x, y - 0.06), (x, y + 0.13), (0, y + 0.09)], (252, 250, 236))
        s.limb("prop", (0, y - 0.09), (0, y + 0.08), 0.03, (214, 60, 70), ink=False)
        for side, d in SIDES:
            s.ellipse(f"arm_{side}", d * 0.22, y + 0.01, 0.052, 0.052, self.flesh)

    # The torso

    def draw_torso(self):
        s, y = self.sketch, self.hip
        s.joint("body", 0, y + 0.11)
        if self.robot:
            s.box("body", -0.19, y - 0.05, 0.19, y + 0.29, self.cloth, ink=True)
            s.ellipse("body", 0.0, y + 0.10, 0.05, 0.05, (255, 240, 150))
        elif self.species == "girl":  # hem, waist, shoulders, waist
            dress = ((-0.25, -0.08), (0.25, -0.08), (0.20, 0.10), (0.13, 0.29), (-0.13, 0.29), (-0.20, 0.10))
            s.poly("body", [(x, y + up) for x, up in dress], self.cloth)
        else:
            s.ellipse("body", 0, y + 0.11, 0.20, 0.20, self.cloth)

    # The head

    def draw_ears(self):
        s, y, fur = self.sketch, self.head_y, self.fur
        inner = mix(fur, (255, 170, 180), 0.55)
        if self.robot:  # an aerial, and a knob on each side
            s.limb("ear", (0, y + 0.2), (0, y + 0.33), 0.03, METAL)
            s.ellipse("ear", 0, y + 0.35, 0.055, 0.055, (255, 90, 80))
        for _, d in SIDES:
            match self.species:
                case "bear":
                    s.ellipse("ear", d * 0.20, y + 0.185, 0.095, 0.095, fur)
                    s.ellipse("ear", d * 0.20, y + 0.185, 0.05, 0.05, inner, ink=False)
                case "cat":
                    s.poly("ear", [(d * 0.25, y + 0.08), (d * 0.22, y + 0.34), (d * 0.05, y + 0.19)], fur)
                    inside = [(d * 0.21, y + 0.13), (d * 0.195, y + 0.27), (d * 0.10, y + 0.19)]
                    s.poly("ear", inside, inner, ink=False)
                case "rabbit":
                    s.ellipse("ear", d * 0.175, y + 0.33, 0.072, 0.20, fur, turn=-d * 14)
                    s.ellipse("ear", d * 0.175, y + 0.33, 0.035, 0.14, inner, ink=False, turn=-d * 14)
                case "robot":
                    s.box("ear", d * 0.31, y - 0.07, d * 0.24, y + 0.09, METAL, ink=True)

    def draw_head(self):
        s, y = self.sketch, self.head_y
        s.joint("head", 0, y)
        if self.robot:  # with a screen for a face
            s.box("head", -0.26, y - 0.20, 0.26, y + 0.21, self.fur, ink=True)
            s.box("face", -0.19, y - 0.12, 0.21, y + 0.12, (220, 240, 246))
        else:
            s.ellipse("head", 0, y, 0.275, 0.245, self.flesh)

    def draw_hair(self):
        """A cap with a fringe, on people."""
        if not self.person:
            return
        y = self.head_y
        cap = [(0.17, y + 0.235), (0.27, y + 0.12), (0.285, y - 0.02)]
        fringe = [(0.23, y + 0.06), (0.08, y + 0.12), (-0.06, y + 0.08), (-0.22, y + 0.10)]
        if self.species == "girl":
            cap.append((0.30, y - 0.16))
            fringe = [(0.235, y - 0.05), *fringe, (-0.235, y - 0.05)]
        left = [(-x, at) for x, at in reversed(cap)]
        self.sketch.poly("hair", [*left, (0, y + 0.275), *cap, *fringe], self.fur)

    def draw_muzzle(self):
        if not self.person and not self.robot:
            pale = mix(self.fur, WHITE, 0.6)
            self.sketch.ellipse("face", 0.03, self.head_y - 0.095, 0.12, 0.088, pale, ink=False)

    # The face looks a little to the side, by 0.03

    def draw_eyes_and_cheeks(self):
        s, y = self.sketch, self.head_y + (0.0 if self.person else 0.03)
        blush = mix(self.flesh, (255, 110, 120), 0.45)
        for side, d in SIDES:
            x, eye = 0.03 + d * 0.105, f"face/eye_{side}"
            if self.pose.eyes > 0.5:
                s.ellipse(eye, x, y, 0.036, 0.047, INK, ink=False)
                s.ellipse(eye, x + 0.012, y + 0.018, 0.013, 0.015, WHITE, ink=False)
            else:
                s.limb(eye, (x - 0.042, y), (x + 0.042, y), 0.026, INK, ink=False)
            if not self.robot:
                s.ellipse("face", 0.03 + d * 0.185, self.head_y - 0.075, 0.04, 0.028, blush, ink=False)

    def draw_mouth(self):
        """The mouth; the nose too, of animals."""
        s, x, y = self.sketch, 0.03, self.head_y
        if self.robot:
            s.limb("face", (x - 0.05, y - 0.075), (x + 0.05, y - 0.075), 0.034, (70, 150, 190), ink=False)
        elif self.person:  # the lower half of an ellipse
            s.ellipse("face", x, y - 0.115, 0.05, 0.036, (176, 52, 62), ink=False)
            s.box("face", x - 0.06, y - 0.108, x + 0.06, y - 0.06, self.flesh)
        else:
            nose = INK if self.species == "bear" else (220, 96, 120)
            s.ellipse("face", x, y - 0.058, 0.042, 0.030, nose, ink=False)
            s.limb("face", (x, y - 0.08), (x, y - 0.125), 0.018, INK, ink=False)

    # In front

    def draw_accessory(self):
        s, y, colour = self.sketch, self.head_y, self.trim
        if self.accessory == "hat":
            crown = [(-0.12, y + 0.23), (0.12, y + 0.23), (0.11, y + 0.43), (-0.11, y + 0.43)]
            s.poly("accessory", crown, colour)
            s.limb("accessory", (-0.17, y + 0.215), (0.17, y + 0.215), 0.08, colour)
        elif self.accessory == "scarf":
            s.limb("accessory", (0.10, y - 0.24), (0.135, y - 0.43), 0.095, colour)
            s.limb("accessory", (-0.17, y - 0.232), (0.17, y - 0.232), 0.10, colour)
        else:  # a bow
            y += 0.275
            for _, d in SIDES:
                s.poly("accessory", [(0.0, y), (d * 0.165, y + 0.105), (d * 0.165, y - 0.095)], colour)
            s.ellipse("accessory", 0.0, y, 0.058, 0.058, colour)

    def draw_sleep(self):
        """The sleeper's z, twice; never mirrored."""
        s, look = self.sketch, self.actor.look
        for x, y, z in ((0.50, 0.56, 0.10), (0.68, 0.76, 0.13)):
            for q, e in (((x, y + z), (x + z, y + z)), ((x + z, y + z), (x, y)), ((x, y), (x + z, y))):
                s.limb("prop", (look * q[0], q[1]), (look * e[0], e[1]), 0.042, (116, 128, 240), ink=False)
