"""Where dL/d(x0 + Δ) comes from while a hypernetwork trains: one file a teacher."""

from .base import Judged, Lesson, Teacher
from .critic import CriticTeacher
from .gradient import GradientTeacher

__all__ = ["CriticTeacher", "GradientTeacher", "Judged", "Lesson", "Teacher"]
