"""Picks where the words are: consistent self-attention whose RandSample draws from the subject.

StoryDiffusion (2405.01434, Eq. 2) draws K = rate * N tokens of each panel from everywhere, so that most of
what is read is background.  Here tokens of the subject come first, at random among themselves, and others
only where the subject has fewer than K.  As many tokens are read, and the same code reads them.
"""

from .subject import SubjectPlan


class SubjectPicks(SubjectPlan):
    """An `AttentionPlan` whose picks are of the subject; in the first step, of anything."""

    def order(self, layer, n):
        subject, order = self.subject(n), super().order(layer, n)  # [S, F, n], 0 to 1
        return order if subject is None else order + subject
