// What the Android example uses of Android (API 24), for the compiler only.
package android.app

import android.content.Context
import android.os.Bundle
import android.view.View

open class Activity : Context() {
    var title: CharSequence
        get() = TODO()
        set(_) = TODO()

    protected open fun onCreate(state: Bundle?): Unit = TODO()

    protected open fun onDestroy(): Unit = TODO()

    fun setContentView(view: View): Unit = TODO()
}
