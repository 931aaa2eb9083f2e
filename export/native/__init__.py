"""The native bundle: a lowered program, its file format, and a C++ runtime in src/."""
