// What the Android example and bundles' code use of onnxruntime's Java API (1.20), for the compiler only.
package ai.onnxruntime

import java.nio.ByteBuffer
import java.nio.FloatBuffer
import java.nio.LongBuffer

enum class OnnxJavaType { FLOAT, BOOL }

interface OnnxValue : AutoCloseable {
    val value: Any
}

class OnnxTensor private constructor() : OnnxValue {
    override val value: Any get() = TODO()

    override fun close() = TODO()

    companion object {
        fun createTensor(env: OrtEnvironment, data: FloatBuffer, shape: LongArray): OnnxTensor = TODO()

        fun createTensor(env: OrtEnvironment, data: LongBuffer, shape: LongArray): OnnxTensor = TODO()

        fun createTensor(env: OrtEnvironment, data: ByteBuffer, shape: LongArray, type: OnnxJavaType): OnnxTensor =
            TODO()
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
