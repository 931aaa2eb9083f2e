package example.digits

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import java.nio.FloatBuffer

/** Runs the exported model: 8 x 8 grey values, 0 to 16, to one of ten digits. */
class DigitClassifier(model: ByteArray) : AutoCloseable {
    private val environment = OrtEnvironment.getEnvironment()
    private val session: OrtSession = environment.createSession(model)

    fun classify(pixels: FloatArray): Int {
        require(pixels.size == SIDE * SIDE) { "${pixels.size} pixels are not $SIDE x $SIDE" }
        val prepared = FloatArray(pixels.size) { (pixels[it] - MEAN) / DEVIATION }
        val shape = longArrayOf(1, 1, SIDE.toLong(), SIDE.toLong())
        OnnxTensor.createTensor(environment, FloatBuffer.wrap(prepared), shape).use { input ->
            session.run(mapOf(INPUT to input)).use { result ->
                val scores = (result[0].value as Array<*>)[0] as FloatArray
                return scores.indices.maxBy { scores[it] }
            }
        }
    }

    override fun close() = session.close()

    companion object {
        const val SIDE = 8
        const val INPUT = "input"

        // Of the task's prepare: the model wants numbers about zero.
        const val MEAN = 4.88f
        const val DEVIATION = 6.02f
    }
}
