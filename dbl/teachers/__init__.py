"""Teachers: causal language models that judge generated texts."""

from dbl.teachers.hugging_face import HuggingFaceTeacher
from dbl.teachers.opening import open_teacher
from dbl.teachers.run import RunTeacher
from dbl.teachers.teacher import EncodedText, Teacher, TeacherScore, windows

__all__ = ["EncodedText", "HuggingFaceTeacher", "RunTeacher", "Teacher", "TeacherScore", "open_teacher", "windows"]
