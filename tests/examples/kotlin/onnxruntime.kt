// What the Android example uses of onnxruntime's Java API (1.20), for the compiler only.
package ai.onnxruntime

import java.nio.FloatBuffer

interface OnnxValue : AutoCloseable {
    val value: Any
}

class OnnxTensor private constructor() : OnnxValue {
    override val value: Any get() = TODO()

    override fun close() = TODO()

    companion object {
        fun createTensor(env: OrtEnvironment, data: FloatBuffer, shape: LongArray): OnnxTensor = TODO()
    }
}

class OrtEnvironment private constructor() {
    fun createSession(model: ByteArray): OrtSession = TODO()

    companion object {
        fun getEnvironment(): OrtEnvironment = TODO()
    }
}

class OrtSession private constructor() : AutoCloseable {
    fun run(inputs: Map<String, OnnxTensor>): Result = TODO()

    override fun close() = TODO()

    class Result private constructor() : AutoCloseable {
        operator fun get(index: Int): OnnxValue = TODO()

        override fun close() = TODO()
    }
}
