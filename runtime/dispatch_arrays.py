"""LLVM IR of the compiled dispatcher: reference counts, and the arrays that calls make.

Such an array is one block of memory: the head and slots that Python's arrays have, then the links of the ring of all that are alive, then the data if they
are not large. It refers to a type that is never freed and to at most one owner of data elsewhere, which is older: no cycle can go through it, so it needs no header for the
garbage collector, and `is_gc` tells the two kinds of instances apart.
`runtime.dispatch_text` lists the abbreviations.
"""

from __future__ import annotations

_ONE_LESS = """
  %m = add i64 %n, -1
  store i64 %m, ptr %x, align 8
  need eq i64 %m, 0 else %end
  call void @_Py_Dealloc(ptr %x)
  br label %end
end:
  ret void
}
"""

COUNTS = {
    "plain": """
define internal void @incref(ptr %x) alwaysinline nounwind {
  %n = load i64, ptr %x, align 8
  %m = add i64 %n, 1
  store i64 %m, ptr %x, align 8
  ret void
}
define internal void @decref(ptr %x) alwaysinline nounwind {
  %n = load i64, ptr %x, align 8
"""
    + _ONE_LESS,
    "immortal": """
define internal void @incref(ptr %x) alwaysinline nounwind {
  %n = load i32, ptr %x, align 8
  %m = add i32 %n, 1
  need ne i32 %m, 0 else %end
  store i32 %m, ptr %x, align 8
  br label %end
end:
  ret void
}
define internal void @decref(ptr %x) alwaysinline nounwind {
  %n = load i64, ptr %x, align 8
  %half = trunc i64 %n to i32
  if slt i32 %half, 0 then %end else %count
count:
"""
    + _ONE_LESS,
    "call": """
define internal void @incref(ptr %x) alwaysinline nounwind {
  call void @Py_IncRef(ptr %x)
  ret void
}
define internal void @decref(ptr %x) alwaysinline nounwind {
  call void @Py_DecRef(ptr %x)
  ret void
}
""",
}

OBJECTS = """
@constants = internal global [64 x i64] zeroinitializer, align 64

define ptr @tg.dispatch.constants() nounwind {
  ret ptr @constants
}

define internal void @xdecref(ptr %x) alwaysinline nounwind {
  need ne ptr %x, null else %end
  call void @decref(ptr %x)
  br label %end
end:
  ret void
}

; An array made by a call has no header for the garbage collector: it refers to nothing that could refer to it.
define i32 @tg.dispatch.is_gc(ptr %self) nounwind {
  %info = word %self ARRAY_info
  %made = icmp eq i64 %info, 0
  %r = zext i1 %made to i32
  ret i32 %r
}

define void @tg.dispatch.dealloc(ptr %self) nounwind {
entry:
  %type = addr %self OBJECT_type
  %info = addr %self ARRAY_info
  %made = icmp eq ptr %info, null
  br i1 %made, label %untrack, label %unlink
untrack:
  call void @PyObject_GC_UnTrack(ptr %self)
  br label %weak
unlink:
  %before = addr %self ARRAY_before
  %after = addr %self ARRAY_after
  put ptr %after %before ARRAY_after
  put ptr %before %after ARRAY_before
  br label %weak
weak:
  %refs = addr %self ARRAY_weak
  need ne ptr %refs, null else %parts
  call void @PyObject_ClearWeakRefs(ptr %self)
  br label %parts
parts:
  br i1 %made, label %slots, label %owned
slots:
  %np = addr %self ARRAY_np
  put ptr null %self ARRAY_np
  call void @xdecref(ptr %np)
  %aval = addr %self ARRAY_aval
  put ptr null %self ARRAY_aval
  call void @xdecref(ptr %aval)
  call void @PyObject_GC_Del(ptr %self)
  call void @decref(ptr %type)
  ret void
owned:
  %owner = addr %self ARRAY_owner
  %block = getelementptr i8, ptr %self, i64 -PREFIX
  call void @xdecref(ptr %owner)
  call void @PyObject_Free(ptr %block)
  call void @decref(ptr %type)
  ret void
}

; `_np`: the array's data as NumPy sees them. A view of what lies in the object is made when it is asked for.
define ptr @tg.dispatch.get_data(ptr %self, ptr %closure) nounwind {
entry:
  %info = addr %self ARRAY_info
  need eq ptr %info, null else %view
  %np = addr %self ARRAY_np
  need eq ptr %np, null else %found
  call void @PyErr_SetNone(ptr %closure)
  ret ptr null
found:
  call void @incref(ptr %np)
  ret ptr %np
view:
  %descr = addr %info INFO_descr
  %rank = word %info INFO_ndim
  %ndim = trunc i64 %rank to i32
  %dims = getelementptr i64, ptr %info, i64 INFO_dims
  %data = addr %self ARRAY_data
  %type = const ndarray
  %new = const new_array
  call void @incref(ptr %descr)
  %x = call ptr %new(ptr %type, ptr %descr, i32 %ndim, ptr %dims, ptr null, ptr %data, i32 257, ptr null)
  need ne ptr %x, null else %error
  %owner = addr %self ARRAY_owner
  %inside = icmp eq ptr %owner, null
  %keeps = select i1 %inside, ptr %self, ptr %owner
  call void @incref(ptr %keeps)
  %set = const set_base
  %status = call i32 %set(ptr %x, ptr %keeps)
  need ne i32 %status, 0 else %done
  call void @decref(ptr %x)
  br label %error
error:
  ret ptr null
done:
  ret ptr %x
}

define i32 @tg.dispatch.set_data(ptr %self, ptr %value, ptr %closure) nounwind {
entry:
  %info = addr %self ARRAY_info
  need eq ptr %info, null else %view
  need ne ptr %value, null else %store
  call void @incref(ptr %value)
  br label %store
store:
  %old = addr %self ARRAY_np
  put ptr %value %self ARRAY_np
  call void @xdecref(ptr %old)
  ret i32 0
view:
  need eq ptr %value, null else %refuse
  %owner = addr %self ARRAY_owner
  put ptr null %self ARRAY_owner
  put ptr null %self ARRAY_data
  call void @xdecref(ptr %owner)
  ret i32 0
refuse:
  call void @PyErr_SetNone(ptr %closure)
  ret i32 -1
}

; A new array of `bytes` bytes; they are aligned to 64, and lie in the object.
define internal ptr @fresh(ptr %aval, ptr %info, i64 %bytes) alwaysinline nounwind {
entry:
  %size = add i64 %bytes, EXTENT
  %block = call ptr @PyObject_Malloc(i64 %size)
  need eq ptr %block, null else %fill
  %none = call ptr @PyErr_NoMemory()
  ret ptr null
fill:
  %self = getelementptr i8, ptr %block, i64 PREFIX
CLEAR_PREFIX
  put i64 1 %self OBJECT_count
  %type = const array
  put ptr %type %self OBJECT_type
  call void @incref(ptr %type)
  put ptr null %self ARRAY_np
  put ptr %aval %self ARRAY_aval
  put ptr %info %self ARRAY_info
  put ptr null %self ARRAY_owner
  put ptr null %self ARRAY_weak
  %behind = getelementptr i8, ptr %self, i64 BEHIND
  %n = ptrtoint ptr %behind to i64
  %start = and i64 %n, -64
  put i64 %start %self ARRAY_data
  %ring = const live
  %next = addr %ring ARRAY_after
  put ptr %ring %self ARRAY_before
  put ptr %next %self ARRAY_after
  put ptr %self %next ARRAY_before
  put ptr %self %ring ARRAY_after
  ret ptr %self
}

; A list of the arrays that were made by calls. No Python code runs while the ring is walked.
define ptr @tg.dispatch.live() nounwind {
entry:
  %list = call ptr @PyList_New(i64 0)
  need ne ptr %list, null else %fail
first:
  %ring = const live
  br label %next
next:
  %x = phi ptr [ %ring, %first ], [ %after, %add ]
  %after = addr %x ARRAY_after
  need ne ptr %after, %ring else %done
add:
  %status = call i32 @PyList_Append(ptr %list, ptr %after)
  need ne i32 %status, 0 else %next
  call void @decref(ptr %list)
  br label %fail
fail:
  ret ptr null
done:
  ret ptr %list
}
"""
