"""The README of a bundle: how to run its models from Python, C, Kotlin and Swift."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edge_sdk.infer.input_parts import InputPart
from edge_sdk.infer.output_parts import OutputPart
from export.snippets import several_inputs as several

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
let output = try session.run(withInputs: ["input": value], outputNames: ["{out}"],
                             runOptions: nil)["{out}"]!.tensorData()
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
const char *in = "input", *out = "{out}";
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
_C_BUILD = """\
This compiles `libflsp.so` here, and prints the folder of `flsp.h`:

```sh
python - <<END
from pathlib import Path
from edge_sdk.infer.build import SOURCES, build
print(build(Path()), SOURCES)
END
```

"""
# A whole program, C and C++ at once: a test compiles and runs it as both.
_C_NATIVE = """\
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
    made: Sequence[OutputPart] = (),
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
        made: The outputs of a model of several or named ones.
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
    if made:
        each = ", ".join(f"{p.name} {p.shape}" for p in made)
        lines[4:4] = [
            f"Outputs of one example: {each}. ONNX files give each by its name, the "
            "code below the first; native files and `golden/` have all, one after the "
            "other."
        ]
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
    fields = {
        "shape": shape,
        "rank": len(input_shape) + 1,
        "inputs": math.prod(input_shape),
        "out": made[0].name if made else "output",
        "outputs": outputs,
    }
    if ort is not None:
        lines += _of_onnxruntime(ort["file"], fields, parts, dtype)
    native = next((e for n, e in models.items() if n.startswith("native")), None)
    if native is not None:
        fields["file"] = native["file"]
        python = several.PYTHON_NATIVE if parts else _PYTHON_NATIVE
        lines += ["", "## Python, native", "", python.format(**fields)]
        fields |= several.fields_of("C", parts)
        program = several.C_NATIVE if parts else _C_NATIVE
        lines += ["", "## C and C++, native", "", _C_BUILD + program.format(**fields)]
    return "\n".join(lines)


def _of_onnxruntime(
    file: str, fields: Mapping[str, Any], parts: Sequence[InputPart], dtype: str
) -> list[str]:
    """A piece of code for each language."""
    lines: list[str] = []
    fields = {**fields, "file": file, "stem": file.removesuffix(".onnx")}
    for title, text in (several.LANGUAGES if parts else _PLAIN).items():
        if title == "Swift" and any(part.dtype == "bool" for part in parts):
            continue  # onnxruntime's package for Swift has no such dtype
        code = text.format(**fields, **several.fields_of(title, parts))
        if dtype == "int64":  # token ids
            for of_floats, of_ids in _IDS:
                code = code.replace(of_floats, of_ids)
        lines += ["", f"## {title}, onnxruntime", "", code]
    return lines


_PLAIN = {"Python": _PYTHON_ORT, "C++": _CPP, "Kotlin": _KOTLIN, "Swift": _SWIFT}
