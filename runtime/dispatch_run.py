"""LLVM IR of the compiled dispatcher: running a table whose guards hold, and the way a call takes.

Results are allocated first, then the kernel runs, and only then containers are made: making them may collect garbage, and finalizers may do
anything to the arguments.
`runtime.dispatch_text` lists the abbreviations.
"""

from __future__ import annotations

RUN = """
; Give the spare arena, or a new one if it is too small or somebody has it; remember its size.
define internal ptr @arena(i64 %need, ptr %size) nounwind {
entry:
  %spare = const spare
  %have = const64 spare_size
  %none = icmp eq ptr %spare, null
  %small = icmp ult i64 %have, %need
  %unfit = or i1 %none, %small
  br i1 %unfit, label %make, label %take
take:
  put ptr null @constants CONSTANTS_spare
  store i64 %have, ptr %size, align 8
  ret ptr %spare
make:
  store i64 %need, ptr %size, align 8
  %wide = add i64 %need, 64
  %new = call ptr @PyMem_RawMalloc(i64 %wide)
  ret ptr %new
}

define internal void @arena_back(ptr %block, i64 %size) nounwind {
entry:
  %spare = const spare
  %have = const64 spare_size
  need ne ptr %spare, null else %keep
  need ult i64 %have, %size else %free
  call void @PyMem_RawFree(ptr %spare)
  br label %keep
keep:
  put ptr %block @constants CONSTANTS_spare
  put i64 %size @constants CONSTANTS_spare_size
  ret void
free:
  call void @PyMem_RawFree(ptr %block)
  ret void
}

define internal void @drop(ptr %items, i64 %from, i64 %to) nounwind {
entry:
  for %i from %from to %to then %end
  %x = addr %items %i
  call void @xdecref(ptr %x)
  next %i
end:
  ret void
}

define internal void @hold(ptr %items, i64 %count) nounwind {
entry:
  for %i to %count then %end
  %x = addr %items %i
  need ne ptr %x, null else %more
  call void @incref(ptr %x)
  br label %more
more:
  next %i
end:
  ret void
}

define internal ptr @run(ptr %t, ptr %frame, ptr %odd, ptr %self, ptr %args, i64 %n, ptr %kwnames) alwaysinline nounwind {
entry:
  %arena.size = alloca i64, align 8
  %owner = addr %t TABLE_owner
  call void @incref(ptr %owner)
  %inputs = part %frame %t TABLE_inputs
  %outputs = part %frame %t TABLE_outputs
  %outs = part %frame %t TABLE_outs
  %objects = part %frame %t TABLE_objects
  %nin = word %t TABLE_nin
  %nout = word %t TABLE_nout
  %results = addr %t TABLE_results
  %holds = word %t TABLE_hold
  %casts = load i64, ptr %odd, align 8
  %either = or i64 %holds, %casts
  %holding = icmp ne i64 %either, 0
  br i1 %holding, label %take, label %results.first
take:
  %ndonated = word %t TABLE_ndonated
  need ne i64 %ndonated, 0 else %keep
  %free = call i1 @give_up(ptr %t, ptr %frame)
  br i1 %free, label %keep, label %refused
refused:
  call void @decref(ptr %owner)
  %instead = call ptr @slow(ptr %self, ptr %args, i64 %n, ptr %kwnames)
  ret ptr %instead
keep:
  call void @hold(ptr %objects, i64 %nin)
  need ne i64 %casts, 0 else %results.first
convert:
  %scalars = part %frame %t TABLE_scalars
  %converted = call i1 @cast(ptr %inputs, ptr %objects, ptr %scalars, i64 %nin)
  br i1 %converted, label %results.first, label %fail

results.first:
  br label %results.next
results.next:
  %i = phi i64 [ 0, %results.first ], [ %i.1, %made ]
  %r = phi ptr [ %results, %results.first ], [ %r.1, %made ]
  need ne i64 %i, %nout else %work
  %op = word %r RESULT_op
  %index = word %r RESULT_index
  %aval = addr %r RESULT_type
  %info = addr %r RESULT_info
  %bytes = word %r RESULT_bytes
  %x = call ptr @fresh(ptr %aval, ptr %info, i64 %bytes)
  put ptr %x %outs %i
  need ne ptr %x, null else %fail.memory
  switch i64 %op, label %inline [
    i64 RESULTS_pool, label %pool
    i64 RESULTS_constant, label %constant
    i64 RESULTS_input, label %input
    i64 RESULTS_again, label %again
    i64 RESULTS_copy, label %copy
    i64 RESULTS_over, label %over
  ]
inline:
  %start = addr %x ARRAY_data
  br label %place
pool:
  %take.fn = const take
  %take.args = addr %r RESULT_object
  %memory = call ptr @PyObject_Call(ptr %take.fn, ptr %take.args, ptr null)
  need ne ptr %memory, null else %fail.pool
pooled:
  %large = addr %memory TUPLE_items
  call void @incref(ptr %large)
  call void @decref(ptr %memory)
  put ptr %large %x ARRAY_owner
  %large.data = addr %large ND_data
  put ptr %large.data %x ARRAY_data
  br label %place
over:
  %written = word %r RESULT_from
  %taken = part %frame %t TABLE_taken
  %memory.over = addr %taken %written
  put ptr null %taken %written
  put ptr %memory.over %x ARRAY_owner
  %over.data = addr %inputs %written
  put ptr %over.data %x ARRAY_data
  br label %place
place:
  %address = phi ptr [ %start, %inline ], [ %large.data, %pooled ], [ %over.data, %over ]
  put ptr %address %outputs %index
  br label %made
constant:
  %fixed = addr %r RESULT_object
  %fixed.data = addr %r RESULT_data
  br label %share
input:
  %source = word %r RESULT_from
  %given = addr %objects %source
  %given.data = addr %inputs %source
  br label %share
copy:
  %original = word %r RESULT_from
  %original.data = addr %inputs %original
  %mine = addr %x ARRAY_data
  call void @llvm.memcpy.p0.p0.i64(ptr %mine, ptr %original.data, i64 %bytes, i1 false)
  br label %made
again:
  %earlier = word %r RESULT_from
  %first = addr %outs %earlier
  %first.data = addr %first ARRAY_data
  %first.owner = addr %first ARRAY_owner
  %first.itself = icmp eq ptr %first.owner, null
  %first.root = select i1 %first.itself, ptr %first, ptr %first.owner
  br label %share
share:
  %keeper = phi ptr [ %fixed, %constant ], [ %given, %input ], [ %first.root, %again ]
  %shared = phi ptr [ %fixed.data, %constant ], [ %given.data, %input ], [ %first.data, %again ]
  call void @incref(ptr %keeper)
  put ptr %keeper %x ARRAY_owner
  put ptr %shared %x ARRAY_data
  br label %made
made:
  %i.1 = add i64 %i, 1
  %r.1 = getelementptr i64, ptr %r, i64 RESULT_WORDS
  br label %results.next

work:
  %entry.fn = addr %t TABLE_entry
  need ne ptr %entry.fn, null else %after
scratch:
  %need = word %t TABLE_arena
  need ne i64 %need, 0 else %start.it
  %block = call ptr @arena(i64 %need, ptr %arena.size)
  need ne ptr %block, null else %fail.arena
scratch.align:
  %b = ptrtoint ptr %block to i64
  %b.up = add i64 %b, 63
  %b.at = and i64 %b.up, -64
  %b.p = inttoptr i64 %b.at to ptr
  br label %start.it
start.it:
  %scratch.block = phi ptr [ null, %scratch ], [ %block, %scratch.align ]
  %scratch.p = phi ptr [ null, %scratch ], [ %b.p, %scratch.align ]
  %consts = addr %t TABLE_constants
  %releases = word %t TABLE_release
  need ne i64 %releases, 0 else %short.run
long.run:
  %thread = call ptr @PyEval_SaveThread()
  %long.status = call i32 %entry.fn(ptr %inputs, ptr %outputs, ptr %consts, ptr %scratch.p)
  call void @PyEval_RestoreThread(ptr %thread)
  br label %ran
short.run:
  %short.status = call i32 %entry.fn(ptr %inputs, ptr %outputs, ptr %consts, ptr %scratch.p)
  br label %ran
ran:
  %status = phi i32 [ %long.status, %long.run ], [ %short.status, %short.run ]
  need ne ptr %scratch.block, null else %judge
  %block.size = load i64, ptr %arena.size, align 8
  call void @arena_back(ptr %scratch.block, i64 %block.size)
  br label %judge
judge:
  need eq i32 %status, 0 else %fail.status
after:
  br i1 %holding, label %let.go, label %build
let.go:
  call void @gone(ptr %t, ptr %frame, i1 true)
  call void @drop(ptr %objects, i64 0, i64 %nin)
  br label %build

build:
  %answer = call ptr @build(ptr %t, ptr %frame, ptr %outs, i64 %nout)
  call void @decref(ptr %owner)
  ret ptr %answer

fail.pool:
  %to.pool = add i64 %i, 1
  br label %fail
fail.memory:
  br label %fail
fail.arena:
  %no.memory = call ptr @PyErr_NoMemory()
  br label %fail
fail.status:
  %code = sext i32 %status to i64
  %number = call ptr @PyLong_FromLong(i64 %code)
  need ne ptr %number, null else %fail
tell:
  %failed.fn = addr %t TABLE_failed
  %told = call ptr (ptr, ...) @PyObject_CallFunctionObjArgs(ptr %failed.fn, ptr %number, ptr null)
  call void @decref(ptr %number)
  call void @xdecref(ptr %told)
  br label %fail
fail:
  %count = phi i64 [ %to.pool, %fail.pool ], [ %i, %fail.memory ], [ %nout, %fail.arena ], [ %nout, %fail.status ], [ %nout, %tell ], [ 0, %convert ]
  call void @drop(ptr %outs, i64 0, i64 %count)
  br i1 %holding, label %fail.hold, label %fail.end
fail.hold:
  call void @gone(ptr %t, ptr %frame, i1 false)
  call void @drop(ptr %objects, i64 0, i64 %nin)
  br label %fail.end
fail.end:
  call void @decref(ptr %owner)
  ret ptr null
}

; Containers around the results. What is on the stack belongs to it, and so do the results that have not got there yet.
define internal ptr @build(ptr %t, ptr %frame, ptr %outs, i64 %nout) alwaysinline nounwind {
entry:
  %first = addr %t TABLE_build
  %end = addr %t TABLE_build_end
  %stack = part %frame %t TABLE_stack
  br label %next
next:
  %b = phi ptr [ %first, %entry ], [ %b.1, %pushed ]
  %used = phi i64 [ 0, %entry ], [ %used.1, %pushed ]
  %height = phi i64 [ 0, %entry ], [ %height.1, %pushed ]
  need eq ptr %b, %end else %step
  %r = load ptr, ptr %stack, align 8
  ret ptr %r
step:
  %op = word %b BUILD_op
  %n = word %b BUILD_count
  %object = addr %b BUILD_object
  %base = sub i64 %height, %n
  %top = getelementptr ptr, ptr %stack, i64 %base
  switch i64 %op, label %out [
    i64 BUILDS_same, label %same
    i64 BUILDS_list, label %list
    i64 BUILDS_tuple, label %tuple
    i64 BUILDS_named, label %named
    i64 BUILDS_dict, label %dict
    i64 BUILDS_call, label %call
  ]
out:
  %x = addr %outs %used
  %used.out = add i64 %used, 1
  br label %push
same:
  call void @incref(ptr %object)
  br label %push
list:
  %l = call ptr @PyList_New(i64 %n)
  need ne ptr %l, null else %fail
list.items:
  %l.items = addr %l LIST_items
  br label %move
tuple:
  %tu = call ptr @PyTuple_New(i64 %n)
  br label %tuple.test
named:
  %na = call ptr @PyType_GenericAlloc(ptr %object, i64 %n)
  br label %tuple.test
tuple.test:
  %tn = phi ptr [ %tu, %tuple ], [ %na, %named ]
  need ne ptr %tn, null else %fail
tuple.items:
  %tn.items = getelementptr i64, ptr %tn, i64 TUPLE_items
  br label %move
move:
  %seq = phi ptr [ %l, %list.items ], [ %tn, %tuple.items ]
  %items = phi ptr [ %l.items, %list.items ], [ %tn.items, %tuple.items ]
  for %m to %n then %push
  %mv = addr %top %m
  put ptr %mv %items %m
  next %m
dict:
  %d = call ptr @PyDict_New()
  need ne ptr %d, null else %fail
  %keys = addr %b BUILD_keys
  for %k to %n then %dict.clear
  %key = addr %keys %k
  %value = addr %top %k
  %status = call i32 @PyDict_SetItem(ptr %d, ptr %key, ptr %value)
  need eq i32 %status, 0 else %dict.fail
  next %k
dict.fail:
  call void @decref(ptr %d)
  br label %fail
dict.clear:
  call void @drop(ptr %top, i64 0, i64 %n)
  br label %push
call:
  %argument = load ptr, ptr %top, align 8
  %named.arguments = addr %b BUILD_keys
  if eq ptr %named.arguments, null then %call.one else %call.several
call.one:
  %of.one = call ptr (ptr, ...) @PyObject_CallFunctionObjArgs(ptr %object, ptr %argument, ptr null)
  br label %called.test
call.several:
  %of.several = call ptr @PyObject_Call(ptr %object, ptr %argument, ptr %named.arguments)
  br label %called.test
called.test:
  %called = phi ptr [ %of.one, %call.one ], [ %of.several, %call.several ]
  need ne ptr %called, null else %fail
call.done:
  call void @decref(ptr %argument)
  br label %push
push:
  %v = phi ptr [ %x, %out ], [ %object, %same ], [ %seq, %m.head ], [ %d, %dict.clear ], [ %called, %call.done ]
  %used.1 = phi i64 [ %used.out, %out ], [ %used, %same ], [ %used, %m.head ], [ %used, %dict.clear ], [ %used, %call.done ]
  store ptr %v, ptr %top, align 8
  %height.1 = add i64 %base, 1
  br label %pushed
pushed:
  %b.1 = getelementptr i64, ptr %b, i64 BUILD_WORDS
  br label %next
fail:
  call void @drop(ptr %stack, i64 0, i64 %height)
  call void @drop(ptr %outs, i64 %used, i64 %nout)
  ret ptr null
}
"""

CALL = """
; The call goes to Python, with the function itself in front of the arguments.
define internal ptr @slow(ptr %self, ptr %args, i64 %n, ptr %kwnames) noinline nounwind {
entry:
  need ne ptr %kwnames, null else %count
named:
  %names = word %kwnames TUPLE_size
  br label %count
count:
  %nkw = phi i64 [ 0, %entry ], [ %names, %named ]
  %total = add i64 %n, %nkw
  %room = add i64 %total, 1
  %all = alloca ptr, i64 %room, align 8
  store ptr %self, ptr %all, align 8
  br label %next
next:
  %i = phi i64 [ 0, %count ], [ %i.1, %one ]
  need ne i64 %i, %total else %go
one:
  %x = addr %args %i
  %i.1 = add i64 %i, 1
  put ptr %x %all %i.1
  br label %next
go:
  %positional = add i64 %n, 1
  %function = const slow
  %code = const slow_call
  %r = call ptr %code(ptr %function, ptr %all, i64 %positional, ptr %kwnames)
  ret ptr %r
}

; Whether a context variable has its default, None.
define internal i1 @unset(ptr %variable) alwaysinline nounwind {
entry:
  %at = alloca ptr, align 8
  %status = call i32 @PyContextVar_Get(ptr %variable, ptr null, ptr %at)
  need ne i32 %status, 0 else %compare
  call void @PyErr_Clear()
  ret i1 false
compare:
  %value = load ptr, ptr %at, align 8
  %none = const none
  %is = icmp eq ptr %value, %none
  call void @xdecref(ptr %value)
  ret i1 %is
}

define ptr @tg.dispatch.call(ptr %self, ptr %args, i64 %nargsf, ptr %kwnames) nounwind {
entry:
  %odd = alloca i64, align 8
  %n = and i64 %nargsf, 9223372036854775807
  %first = addr %self CALL_table
  need ne ptr %first, null else %slow
  %i.var = const interpreter
  %eager = call i1 @unset(ptr %i.var)
  br i1 %eager, label %overrides, label %slow
overrides:
  %o.var = const overrides
  %usual = call i1 @unset(ptr %o.var)
  br i1 %usual, label %calls, label %slow
calls:
  %left = const64 calls
  %left.1 = add i64 %left, -1
  put i64 %left.1 @constants CONSTANTS_calls
  need ne i64 %left.1, 0 else %slow
prepare:
  %words = word %self CALL_frame
  %frame = alloca i64, i64 %words, align 16
  br label %next
next:
  %t = phi ptr [ %first, %prepare ], [ %following, %miss ]
  %fits = call i1 @match(ptr %t, ptr %args, i64 %n, ptr %kwnames, ptr %frame, ptr %odd)
  br i1 %fits, label %run, label %miss
miss:
  %following = addr %t TABLE_next
  if eq ptr %following, null then %slow else %next
run:
  %r = call ptr @run(ptr %t, ptr %frame, ptr %odd, ptr %self, ptr %args, i64 %n, ptr %kwnames)
  ret ptr %r
slow:
  %s = call ptr @slow(ptr %self, ptr %args, i64 %n, ptr %kwnames)
  ret ptr %s
}
"""
