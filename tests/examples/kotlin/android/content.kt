package android.content

import java.io.InputStream

open class Context {
    val assets: AssetManager get() = TODO()
}

class AssetManager {
    fun open(fileName: String): InputStream = TODO()
}
