package android.view

import android.content.Context
import android.graphics.Canvas

class MotionEvent {
    val actionMasked: Int get() = TODO()
    val x: Float get() = TODO()
    val y: Float get() = TODO()

    companion object {
        const val ACTION_DOWN = 0
        const val ACTION_UP = 1
    }
}

open class View(context: Context) {
    val width: Int get() = TODO()
    val height: Int get() = TODO()

    open fun onTouchEvent(event: MotionEvent): Boolean = TODO()

    protected open fun onDraw(canvas: Canvas): Unit = TODO()

    fun invalidate(): Unit = TODO()
}
