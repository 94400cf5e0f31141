"""Teachers: causal language models that judge generated texts."""

from dbl.evaluation.teachers.hugging_face import HuggingFaceTeacher
from dbl.evaluation.teachers.opening import open_teacher
from dbl.evaluation.teachers.run import RunTeacher
from dbl.evaluation.teachers.teacher import EncodedText, Teacher, TeacherScore, windows

__all__ = ["EncodedText", "HuggingFaceTeacher", "RunTeacher", "Teacher", "TeacherScore", "open_teacher", "windows"]
