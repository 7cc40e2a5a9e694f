"""LLVM IR of the compiled dispatcher: leaves that are not what the kernel reads are converted.

64-bit numbers become 32-bit ones unless 64-bit types are asked for: contiguous arrays of native order in loops here, into arrays of ours. All else is NumPy's
work, into arrays of its own: views that are not contiguous, other byte orders, large arrays. So are numbers that overflow, for NumPy is to
warn of them, or raise an error, as `numpy.errstate` says.
`runtime.dispatch_text` lists the abbreviations.
"""

from __future__ import annotations

_LOOP = """
; All: whether all results are finite.
define internal i1 @NAME(ptr %from, ptr %to, i64 %n) noinline nounwind {
entry:
  %eights = lshr i64 %n, 3
  %begun = shl i64 %eights, 3
  br label %wide
wide:
  %i = phi i64 [ 0, %entry ], [ %i.1, %more ]
  %sum = phi <8 x float> [ zeroinitializer, %entry ], [ %sum.1, %more ]
  need ne i64 %i, %eights else %rest
more:
  %i.1 = add i64 %i, 1
  %p = getelementptr <8 x LONG>, ptr %from, i64 %i
  %q = getelementptr <8 x SHORT>, ptr %to, i64 %i
  %v = load <8 x LONG>, ptr %p, align 8
  %r = OP <8 x LONG> %v to <8 x SHORT>
  store <8 x SHORT> %r, ptr %q, align 4
  %f = bitcast <8 x SHORT> %r to <8 x float>
  %none = fsub <8 x float> %f, %f
  %sum.1 = fadd <8 x float> %sum, %none
  br label %wide
rest:
  %j = phi i64 [ %begun, %wide ], [ %j.1, %one ]
  %all = phi <8 x float> [ %sum, %wide ], [ %all.1, %one ]
  need ne i64 %j, %n else %end
one:
  %j.1 = add i64 %j, 1
  %jp = getelementptr LONG, ptr %from, i64 %j
  %jq = getelementptr SHORT, ptr %to, i64 %j
  %jv = load LONG, ptr %jp, align 8
  %jr = OP LONG %jv to SHORT
  store SHORT %jr, ptr %jq, align 4
  %jf = bitcast SHORT %jr to float
  %jn = fsub float %jf, %jf
  %first = extractelement <8 x float> %all, i32 0
  %next = fadd float %first, %jn
  %all.1 = insertelement <8 x float> %all, float %next, i32 0
  br label %rest
end:
  %bad = fcmp uno <8 x float> %all, zeroinitializer
  %bits = bitcast <8 x i1> %bad to i8
  %good = icmp eq i8 %bits, 0
  ret i1 %good
}
"""


def _loop(**words: str) -> str:
    text = _LOOP
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    return text


CASTING = (
    "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)\n"
    + _loop(NAME="floats", LONG="double", SHORT="float", OP="fptrunc")
    + _loop(NAME="integers", LONG="i64", SHORT="i32", OP="trunc")
    + """
; Convert the leaves without an address; their objects are held, and those of what comes of them are held instead. Runs Python code where
; NumPy warns. False if it raises.
define internal i1 @cast(ptr %inputs, ptr %objects, ptr %casts, i64 %n) noinline nounwind {
entry:
  for %i to %n then %done
  %data = addr %inputs %i
  need eq ptr %data, null else %more
  %at = shl i64 %i, 1
  %cast = addr %casts %at
  %x = addr %objects %i
  %info = addr %cast CAST_info
  %type = addr %x OBJECT_type
  need eq ptr %type, const ndarray else %numpy
  %fp = getelementptr i8, ptr %x, i64 ND_flags
  %flags = load i32, ptr %fp, align 8
  %whole = and i32 %flags, 257
  need eq i32 %whole, 257 else %numpy
  %kind = word %cast CAST_kind
  need ne i64 %kind, CASTS_numpy else %numpy
  %aval = addr %cast CAST_type
  %bytes = word %cast CAST_bytes
  %count = word %cast CAST_count
  %y = call ptr @fresh(ptr %aval, ptr %info, i64 %bytes)
  need ne ptr %y, null else %fail
  %from = addr %x ND_data
  %to = addr %y ARRAY_data
  if eq i64 %kind, CASTS_integers then %whole.numbers else %numbers
whole.numbers:
  call i1 @integers(ptr %from, ptr %to, i64 %count)
  br label %narrowed
numbers:
  %fit = call i1 @floats(ptr %from, ptr %to, i64 %count)
  br i1 %fit, label %narrowed, label %again
again:
  call void @decref(ptr %y)
  br label %numpy
numpy:
  %make = const from_any
  %descr = addr %info INFO_descr
  call void @incref(ptr %descr)
  %z = call ptr %make(ptr %x, ptr %descr, i32 0, i32 0, i32 305, ptr null)
  need ne ptr %z, null else %fail
numpy.made:
  %z.fp = getelementptr i8, ptr %z, i64 ND_flags
  %z.flags = load i32, ptr %z.fp, align 8
  %fixed = and i32 %z.flags, -1025
  store i32 %fixed, ptr %z.fp, align 8
  %z.data = addr %z ND_data
  br label %place
narrowed:
  br label %place
place:
  %new = phi ptr [ %z, %numpy.made ], [ %y, %narrowed ]
  %address = phi ptr [ %z.data, %numpy.made ], [ %to, %narrowed ]
  put ptr %new %objects %i
  put ptr %address %inputs %i
  call void @decref(ptr %x)
  br label %more
more:
  next %i
done:
  ret i1 true
fail:
  ret i1 false
}
"""
)
