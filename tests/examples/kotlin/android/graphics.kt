package android.graphics

class Canvas {
    fun drawRect(left: Float, top: Float, right: Float, bottom: Float, paint: Paint): Unit = TODO()
}

class Paint {
    var color: Int
        get() = TODO()
        set(_) = TODO()
}

object Color {
    fun rgb(red: Int, green: Int, blue: Int): Int = TODO()
}
