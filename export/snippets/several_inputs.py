"""Code for a model of several inputs, in each language of a bundle's README."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from edge_sdk.infer.input_parts import InputPart

__all__ = ["C_NATIVE", "LANGUAGES", "PYTHON_NATIVE", "fields_of"]

_PYTHON = """\
```python
import numpy as np, onnxruntime as ort

session = ort.InferenceSession("{file}")
golden = np.load("golden/inputs.npz")
names = [given.name for given in session.get_inputs()]
inputs = {{name: golden[key][:1] for name, key in zip(names, golden.files)}}
output = session.run(None, inputs)[0]
```
"""
_KOTLIN = """\
```kotlin
// implementation("com.microsoft.onnxruntime:onnxruntime-android:1.20.0")
val environment = OrtEnvironment.getEnvironment()
val session = environment.createSession(assets.open("{file}").readBytes())
val inputs = mapOf(
{lines})
val output = session.run(inputs)[0].value as Array<FloatArray>
```
"""
_SWIFT = """\
```swift
// Swift package onnxruntime-swift-package-manager
let path = Bundle.main.path(forResource: "{stem}", ofType: "onnx")!
let session = try ORTSession(env: ORTEnv(loggingLevel: .warning), modelPath: path,
                             sessionOptions: nil)
let inputs = [
{lines}]
let outputs = try session.run(withInputs: inputs,
                              outputNames: Set(session.outputNames()), runOptions: nil)
```
"""
_CPP = """\
```cpp
Ort::Env environment;
Ort::Session session(environment, "{file}", Ort::SessionOptions{{}});
auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
Ort::AllocatorWithDefaultOptions allocator;
auto out = session.GetOutputNameAllocated(0, allocator);
const char *names[] = {{{names}}}, *outs[] = {{out.get()}};
std::vector<Ort::Value> inputs;  // of each a std::array with one example's values
{lines}auto outputs = session.Run({{}}, names, inputs.data(), {count}, outs, 1);
```
"""
PYTHON_NATIVE = """\
```python
import numpy as np
from edge_sdk.infer import NativeModel

golden = np.load("golden/inputs.npz")
inputs = {{name: golden[name][:1] for name in golden.files}}
output = NativeModel("{file}").run(inputs)
```
"""
# A whole program, C and C++ at once: a test compiles and runs it as both.
C_NATIVE = """\
```c
// cc run.c -I FOLDER -L . -lflsp -Wl,-rpath,. -o run && ./run   (or c++ run.cpp ...)
#include <stdio.h>
#include "flsp.h"

int main(void) {{
  static float row[{inputs}], output[{outputs}];
{arrays}  char error[256];
  FILE* file = fopen("golden/input.npy", "rb");
  if (!file || fseek(file, 128, SEEK_SET)) return 2;  // behind numpy's header
  if (fread(row, sizeof row, 1, file) != 1) return 2;
{filled}  const flsp_array inputs[] = {{
{given}  }};
  flsp_model* model = flsp_open("{file}", error, sizeof error);
  if (!model) return fprintf(stderr, "%s\\n", error), 1;
  flsp_session* session = flsp_session_new(model, 1, error, sizeof error);
  if (flsp_run_several(session, inputs, {count}, output, 1)) return 3;
  for (int i = 0; i < {outputs}; i++) printf("%.9g\\n", output[i]);
  flsp_session_free(session);
  flsp_close(model);
  return 0;
}}
```
"""
# Of each dtype: C++, Kotlin's call around a buffer of one example, Swift's word, C.
_OF_DTYPE = {
    "float32": ("float", "FloatBuffer.wrap", "float", "float"),
    "int64": ("int64_t", "LongBuffer.wrap", "int64", "int64_t"),
    "bool": ("bool", "ByteBuffer.wrap", "bool", "uint8_t"),
}
LANGUAGES = {
    "Python": _PYTHON,
    "C++": _CPP,
    "Kotlin": _KOTLIN,
    "Swift": _SWIFT,
}


def fields_of(title: str, parts: Sequence[InputPart]) -> dict[str, Any]:
    """Fields of a language's code for each input: lines, names, their count."""
    if title == "C":
        return _in_c(parts)
    lines = []
    for number, part in enumerate(parts):
        shape, rank = ", ".join(map(str, (1, *part.shape))), 1 + len(part.shape)
        cpp, kotlin, swift, _ = _OF_DTYPE[part.dtype]
        word = _word(part)
        if title == "C++":
            sizes = f"shape{number}"
            lines += [
                f"int64_t {sizes}[] = {{{shape}}};",
                f"inputs.push_back(Ort::Value::CreateTensor<{cpp}>(",
                f"    memory, {word}.data(), {word}.size(), {sizes}, {rank}));",
            ]
        elif title == "Kotlin":
            typed = ", OnnxJavaType.BOOL" if part.dtype == "bool" else ""
            lines += [
                f'    "{part.name}" to OnnxTensor.createTensor(environment,',
                f"        {kotlin}({word}), longArrayOf({shape}){typed}),",
            ]
        elif title == "Swift":
            lines += [
                f'    "{part.name}": try ORTValue(',
                f"        tensorData: NSMutableData(data: {word}),",
                f"        elementType: .{swift}, shape: [{shape}]),",
            ]
    names = ", ".join(f'"{part.name}"' for part in parts)
    joined = "".join(f"{line}\n" for line in lines)
    return {"lines": joined, "names": names, "count": len(parts)}


def _in_c(parts: Sequence[InputPart]) -> dict[str, Any]:
    """An array of each input, and how the golden row fills it."""
    arrays, filled, given, at = "", "", "", 0
    for part in parts:
        kind, word = _OF_DTYPE[part.dtype][3], _word(part)
        start = f"{at} + " if at else ""
        arrays += f"  static {kind} {word}[{part.size}];\n"
        filled += (
            f"  for (int i = 0; i < {part.size}; i++) "
            f"{word}[i] = ({kind})row[{start}i];\n"
        )
        given += f"    {{{word}, FLSP_{part.dtype.upper()}, {part.size}}},\n"
        at += part.size
    return {"arrays": arrays, "filled": filled, "given": given, "count": len(parts)}


def _word(part: InputPart) -> str:
    """A variable's name, which no language has for anything else."""
    return re.sub(r"\W|^(?=\d)", "_", part.name, flags=re.ASCII) + "_values"
