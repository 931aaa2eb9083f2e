package example.digits

import android.app.Activity
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.Paint
import android.os.Bundle
import android.view.MotionEvent
import android.view.View

/** Draw a digit with a finger; lifting it shows what the model reads. */
class MainActivity : Activity() {
    private lateinit var classifier: DigitClassifier

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        classifier = DigitClassifier(assets.open("digits.onnx").use { it.readBytes() })
        title = "Draw a digit"
        setContentView(Pad())
    }

    override fun onDestroy() {
        classifier.close()
        super.onDestroy()
    }

    private inner class Pad : View(this@MainActivity) {
        private val side = DigitClassifier.SIDE
        private val pixels = FloatArray(side * side)
        private val paint = Paint()

        override fun onTouchEvent(event: MotionEvent): Boolean {
            when (event.actionMasked) {
                MotionEvent.ACTION_DOWN -> pixels.fill(0f)
                MotionEvent.ACTION_UP -> title = "That is a ${classifier.classify(pixels)}"
            }
            val column = (event.x * side / width).toInt()
            val row = (event.y * side / height).toInt()
            if (column in 0 until side && row in 0 until side) {
                pixels[row * side + column] = 16f
            }
            invalidate()
            return true
        }

        override fun onDraw(canvas: Canvas) {
            val across = width.toFloat() / side
            val down = height.toFloat() / side
            for (place in pixels.indices) {
                val shade = 255 - (pixels[place] * 255 / 16).toInt()
                paint.color = Color.rgb(shade, shade, shade)
                val left = place % side * across
                val top = place / side * down
                canvas.drawRect(left, top, left + across, top + down, paint)
            }
        }
    }
}
