"""The README of a bundle: how to run its models from Python, C, Kotlin and Swift."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from edge_sdk.infer.input_parts import InputPart

__all__ = ["readme"]

_ZSTD = ".zst"
_UNPACK = """\
The models are compressed. `export.load` and `edge_sdk.infer.Bundle` read them so, with
`pip install 'flash-edge[zstd]'`; for the code below: `zstd -d {names}`"""
_PYTHON_ORT = """\
```python
import numpy as np, onnxruntime as ort

session = ort.InferenceSession("{file}")
output = session.run(None, {{"input": np.load("golden/input.npy")[:1]}})[0]
```
"""
_KOTLIN = """\
```kotlin
// implementation("com.microsoft.onnxruntime:onnxruntime-android:1.20.0")
val environment = OrtEnvironment.getEnvironment()
val session = environment.createSession(assets.open("{file}").readBytes())
val shape = longArrayOf({shape})
val tensor = OnnxTensor.createTensor(environment, FloatBuffer.wrap(input), shape)
val output = session.run(mapOf("input" to tensor))[0].value as Array<FloatArray>
```
"""
_SWIFT = """\
```swift
// Swift package onnxruntime-swift-package-manager
let path = Bundle.main.path(forResource: "{stem}", ofType: "onnx")!
let session = try ORTSession(env: ORTEnv(loggingLevel: .warning), modelPath: path,
                             sessionOptions: nil)
let value = try ORTValue(tensorData: NSMutableData(data: input), elementType: .float,
                         shape: [{shape}])
let output = try session.run(withInputs: ["input": value], outputNames: ["output"],
                             runOptions: nil)["output"]!.tensorData()
```
"""
_CPP = """\
```cpp
Ort::Env environment;
Ort::Session session(environment, "{file}", Ort::SessionOptions{{}});
std::array<int64_t, {rank}> shape{{{shape}}};
auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
auto tensor = Ort::Value::CreateTensor<float>(memory, input.data(), input.size(),
                                              shape.data(), shape.size());
const char *in = "input", *out = "output";
auto outputs = session.Run({{}}, &in, &tensor, 1, &out, 1);
```
"""
_PYTHON_NATIVE = """\
```python
import numpy as np
from edge_sdk.infer import NativeModel

output = NativeModel("{file}").run(np.load("golden/input.npy")[:1])
```
"""
_IDS = (
    ("FloatBuffer", "LongBuffer"),
    ("CreateTensor<float>", "CreateTensor<int64_t>"),
    ("elementType: .float", "elementType: .int64"),
)
_PYTHON_APART = """\
```python
import numpy as np, onnxruntime as ort

session = ort.InferenceSession("{file}")
golden = np.load("golden/inputs.npz")
names = [given.name for given in session.get_inputs()]
inputs = {{name: golden[key][:1] for name, key in zip(names, golden.files)}}
output = session.run(None, inputs)[0]
```
"""
_KOTLIN_APART = """\
```kotlin
// implementation("com.microsoft.onnxruntime:onnxruntime-android:1.20.0")
val environment = OrtEnvironment.getEnvironment()
val session = environment.createSession(assets.open("{file}").readBytes())
val inputs = mapOf(
{lines})
val output = session.run(inputs)[0].value as Array<FloatArray>
```
"""
_SWIFT_APART = """\
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
_CPP_APART = """\
```cpp
Ort::Env environment;
Ort::Session session(environment, "{file}", Ort::SessionOptions{{}});
auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
Ort::AllocatorWithDefaultOptions allocator;
auto out = session.GetOutputNameAllocated(0, allocator);
const char *names[] = {{{names}}}, *outs[] = {{out.get()}};
std::vector<Ort::Value> inputs;
{lines}auto outputs = session.Run({{}}, names, inputs.data(), {count}, outs, 1);
```
"""
_PYTHON_NATIVE_APART = """\
```python
import numpy as np
from edge_sdk.infer import NativeModel

golden = np.load("golden/inputs.npz")
inputs = {{name: golden[name][:1] for name in golden.files}}
output = NativeModel("{file}").run(inputs)
```
"""
# Of each dtype: C++, Kotlin's call around a buffer of one example, Swift's word.
_OF_DTYPE = {
    "float32": ("float", "FloatBuffer.wrap", "float"),
    "int64": ("int64_t", "LongBuffer.wrap", "int64"),
    "bool": ("bool", "ByteBuffer.wrap", "bool"),
}
# A whole program, C and C++ at once: a test compiles and runs it as both.
_C_NATIVE = """\
This compiles `libflsp.so` here, and prints the folder of `flsp.h`:

```sh
python - <<END
from pathlib import Path
from edge_sdk.infer.build import SOURCES, build
print(build(Path()), SOURCES)
END
```

```c
// cc run.c -I FOLDER -L . -lflsp -Wl,-rpath,. -o run && ./run   (or c++ run.cpp ...)
#include <stdio.h>
#include "flsp.h"

int main(void) {{
  static float input[{inputs}], output[{outputs}];
  char error[256];
  FILE* file = fopen("golden/input.npy", "rb");
  if (!file || fseek(file, 128, SEEK_SET)) return 2;  // behind numpy's header
  if (fread(input, sizeof input, 1, file) != 1) return 2;
  flsp_model* model = flsp_open("{file}", error, sizeof error);
  if (!model) return fprintf(stderr, "%s\\n", error), 1;
  flsp_session* session = flsp_session_new(model, 1, error, sizeof error);
  flsp_run(session, input, output, 1);
  for (int i = 0; i < {outputs}; i++) printf("%.9g\\n", output[i]);
  flsp_session_free(session);
  flsp_close(model);
  return 0;
}}
```
"""


def readme(
    task: str,
    models: Mapping[str, Any],
    input_shape: tuple[int, ...],
    *,
    labels: int,
    outputs: int,
    dtype: str = "float32",
    parts: Sequence[InputPart] = (),
) -> str:
    """Markdown: what is in the bundle, and a few lines of code per language.

    Args:
        task: The task's name.
        models: Format to its entry in the manifest.
        input_shape: Of one prepared example.
        labels: How many labels there are.
        outputs: Values of one output.
        dtype: Of the input.
        parts: The inputs of a model of several.
    """
    shape = ", ".join(map(str, (1, *input_shape)))
    lines = [
        f"# {task}",
        "",
        f"Input `{shape}` {dtype}, prepared as `preprocess.json` says; "
        f"{labels} labels in `labels.txt`, in the order of the outputs.",
        "`golden/` has an input and the output it must give: compare before you ship.",
        "`flash-export verify .` does so here, `flash-export bench .` measures.",
        "",
        "| model | bytes | smaller than dense | values |",
        "|---|---|---|---|",
    ]
    if parts:
        each = ", ".join(f"{p.name} {p.shape} {p.dtype}" for p in parts)
        lines[2] = (
            f"Inputs: {each}, prepared as `preprocess.json` says; {labels} labels in "
            "`labels.txt`, in the order of the outputs. ONNX files take each by its "
            "name; `flsp_run_several` takes them in this order, `flsp_run` as one row "
            "of float32, as `golden/input.npy` has it."
        )
    for name, entry in models.items():
        exact = "exact" if entry["exact"] else "rounded"
        row = f"| `{entry['file']}` | {entry['bytes']:,} | {entry['size_ratio']:.1f}x"
        lines.append(f"{row} | {exact} |")
        del name
    packed = [e["file"] for e in models.values() if e["file"].endswith(_ZSTD)]
    if packed:
        names = " ".join(packed)
        lines += ["", _UNPACK.format(names=names)]
        plain = {n: e["file"].removesuffix(_ZSTD) for n, e in models.items()}
        models = {n: {**e, "file": plain[n]} for n, e in models.items()}
    ort = next((e for n, e in models.items() if n.startswith("onnx")), None)
    inputs = math.prod(input_shape)
    fields = {"shape": shape, "rank": len(input_shape) + 1}
    if ort is not None:
        fields |= {"file": ort["file"], "stem": ort["file"].removesuffix(".onnx")}
        for title, text in (_APART if parts else _PLAIN).items():
            if title == "Swift" and any(part.dtype == "bool" for part in parts):
                continue  # onnxruntime's package for Swift has no such dtype
            code = text.format(**fields, **_each(title, parts))
            if dtype == "int64":  # token ids
                for of_floats, of_ids in _IDS:
                    code = code.replace(of_floats, of_ids)
            lines += ["", f"## {title}, onnxruntime", "", code]
    native = next((e for n, e in models.items() if n.startswith("native")), None)
    if native is not None:
        fields |= {"file": native["file"], "inputs": inputs, "outputs": outputs}
        python = _PYTHON_NATIVE_APART if parts else _PYTHON_NATIVE
        lines += ["", "## Python, native", "", python.format(**fields)]
        lines += ["", "## C and C++, native", "", _C_NATIVE.format(**fields)]
    return "\n".join(lines)


_PLAIN = {"Python": _PYTHON_ORT, "C++": _CPP, "Kotlin": _KOTLIN, "Swift": _SWIFT}
_APART = {
    "Python": _PYTHON_APART,
    "C++": _CPP_APART,
    "Kotlin": _KOTLIN_APART,
    "Swift": _SWIFT_APART,
}


def _each(title: str, parts: Sequence[InputPart]) -> dict[str, Any]:
    """Lines of code for each of several inputs, in a language."""
    lines = []
    for number, part in enumerate(parts):
        shape, rank = ", ".join(map(str, (1, *part.shape))), 1 + len(part.shape)
        cpp, kotlin, swift = _OF_DTYPE[part.dtype]
        word = re.sub(r"\W|^(?=\d)", "_", part.name)
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
    return {"lines": joined, "names": names, "count": len(parts)} if parts else {}
