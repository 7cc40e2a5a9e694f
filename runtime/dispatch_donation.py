"""LLVM IR of the compiled dispatcher: donated arguments.

The rules are those of `runtime.donation`: an array's memory may be overwritten if it is the pool's and every object from the array to the memory is
referred to by the one before it only. Where that is not so, or an array is passed twice, nothing has been done yet, and the call goes to Python, which copies
or raises an error. From the guards to the end of these checks no Python code runs, and no other thread.
`runtime.dispatch_text` lists the abbreviations.
"""

from __future__ import annotations

DONATION = """
; Delete an array, unless it has been deleted. What it referred to, if anything, belongs to the caller.
define internal ptr @delete(ptr %x) noinline nounwind {
entry:
  %type = addr %x OBJECT_type
  need eq ptr %type, const array else %gone
  %info = addr %x ARRAY_info
  %np = addr %x ARRAY_np
  %owner = addr %x ARRAY_owner
  %seen = icmp eq ptr %info, null
  %had = select i1 %seen, ptr %np, ptr %owner
  put ptr null %x ARRAY_np
  put ptr null %x ARRAY_owner
  put ptr null %x ARRAY_data
  %deleted = const deleted
  put ptr %deleted %x OBJECT_type
  call void @incref(ptr %deleted)
  call void @decref(ptr %type)
  ret ptr %had
gone:
  ret ptr null
}

; Hold the donated arrays, and take the memory of those that are overwritten. False, with nothing done, if that cannot be. Arrays are marked by their
; type while it is looked for one that is there twice.
define internal i1 @give_up(ptr %t, ptr %frame) noinline nounwind {
entry:
  %given = part %frame %t TABLE_given
  %taken = part %frame %t TABLE_taken
  %inputs = part %frame %t TABLE_inputs
  %arrays = addr %t TABLE_arrays
  %narrays = word %t TABLE_narrays
  %ndonated = word %t TABLE_ndonated
  %over = addr %t TABLE_over
  %nover = word %t TABLE_nover
  %array = const array
  %deleted = const deleted
  for %i to %ndonated then %others
  %i.leaf = word %arrays %i
  %i.x = addr %given %i.leaf
  %i.type = addr %i.x OBJECT_type
  need eq ptr %i.type, %array else %back
  put ptr %deleted %i.x OBJECT_type
  next %i
others:
  for %j from %ndonated to %narrays then %memory
  %j.leaf = word %arrays %j
  %j.x = addr %given %j.leaf
  %j.type = addr %j.x OBJECT_type
  need eq ptr %j.type, %array else %back
  next %j
memory:
  for %k to %nover then %take
  %k.leaf = word %over %k
  %k.x = addr %given %k.leaf
  %data = word %inputs %k.leaf
  %apart = and i64 %data, 63
  need eq i64 %apart, 0 else %back
  need ne i64 %data, 0 else %back
  %info = addr %k.x ARRAY_info
  %np = addr %k.x ARRAY_np
  %owner = addr %k.x ARRAY_owner
  %seen = icmp eq ptr %info, null
  %first = select i1 %seen, ptr %np, ptr %owner
  br label %begin
begin:
  br label %link
link:
  %o = phi ptr [ %first, %begin ], [ %base, %on ]
  need ne ptr %o, null else %back
  %count = word %o OBJECT_count
  need eq i64 %count, 1 else %back
  %type = addr %o OBJECT_type
  need eq ptr %type, const ndarray else %block
on:
  %base = addr %o ND_base
  br label %link
block:
  %lent = const lent
  %is = call i32 @PyType_IsSubtype(ptr %type, ptr %lent)
  need ne i32 %is, 0 else %back
  next %k
take:
  for %m to %ndonated then %overwritten
  %m.leaf = word %arrays %m
  %m.x = addr %given %m.leaf
  put ptr %array %m.x OBJECT_type
  call void @incref(ptr %m.x)
  next %m
overwritten:
  for %w to %nover then %done
  %w.leaf = word %over %w
  %w.x = addr %given %w.leaf
  %had = call ptr @delete(ptr %w.x)
  put ptr %had %taken %w.leaf
  next %w
done:
  ret i1 true
back:
  for %b to %ndonated then %refused
  %b.leaf = word %arrays %b
  %b.x = addr %given %b.leaf
  put ptr %array %b.x OBJECT_type
  next %b
refused:
  ret i1 false
}

; The end of a call: the donated arrays are deleted if it went well. Memory that no result lies in goes back.
define internal void @gone(ptr %t, ptr %frame, i1 %well) noinline nounwind {
entry:
  %given = part %frame %t TABLE_given
  %taken = part %frame %t TABLE_taken
  %arrays = addr %t TABLE_arrays
  %ndonated = word %t TABLE_ndonated
  need ne i64 %ndonated, 0 else %end
  %over = addr %t TABLE_over
  %nover = word %t TABLE_nover
  for %i to %ndonated then %rest
  %leaf = word %arrays %i
  %x = addr %given %leaf
  br i1 %well, label %delete, label %let.go
delete:
  %had = call ptr @delete(ptr %x)
  call void @xdecref(ptr %had)
  br label %let.go
let.go:
  call void @decref(ptr %x)
  next %i
rest:
  for %j to %nover then %end
  %place = word %over %j
  %memory = addr %taken %place
  call void @xdecref(ptr %memory)
  next %j
end:
  ret void
}
"""
