"""Where dL/d(x0 + Δ) comes from while a hypernetwork trains: one file a teacher."""

from .base import Judged, Lesson, Teacher
from .critic import CriticTeacher
from .gradient import GradientTeacher

TEACHERS = ("gradient", "critic")
"""What `TrainingConfig.teacher` may name."""

__all__ = ["TEACHERS", "CriticTeacher", "GradientTeacher", "Judged", "Lesson", "Teacher"]
