"""Where a training or evaluation is logged: loggers of the user, and reports of a profiler."""
