"""LLVM IR of the compiled dispatcher: whether the arguments of a call are those of a table.

Guards are records that are executed in turn on *registers*, places in the frame: the first ones hold the arguments, a guard of a container puts its members into
the next ones. Guards of leaves leave the address of the data in `inputs` and what keeps the data alive in `objects`. Leaves that are to be
converted have no address yet: their object is there, what it takes (`CAST`) in `scalars`, and `odd` is set.
`runtime.dispatch_text` lists the abbreviations.
"""

from __future__ import annotations

MATCH = """
define internal i1 @match(ptr %t, ptr %args, i64 %n, ptr %kwnames, ptr %frame, ptr %odd) alwaysinline nounwind {
entry:
  %overflow = alloca i32, align 8
  %position = alloca i64, align 8
  %keyat = alloca ptr, align 8
  %valueat = alloca ptr, align 8
  store i64 0, ptr %odd, align 8
  %epoch = word %t TABLE_epoch
  %now = const64 epoch
  need eq i64 %epoch, %now else %no
  %nargs = word %t TABLE_nargs
  need eq i64 %nargs, %n else %no
  %nkw = word %t TABLE_nkw
  need eq ptr %kwnames, null else %names
  if eq i64 %nkw, 0 then %copy else %no
names:
  %given = word %kwnames TUPLE_size
  need eq i64 %given, %nkw else %no
  %wanted = addr %t TABLE_names
  %have = getelementptr i64, ptr %kwnames, i64 TUPLE_items
  for %i to %nkw then %copy
  %w = addr %wanted %i
  %h = addr %have %i
  need eq ptr %w, %h else %no
  next %i

copy:
  %regs = part %frame %t TABLE_regs
  %inputs = part %frame %t TABLE_inputs
  %objects = part %frame %t TABLE_objects
  %scalars = part %frame %t TABLE_scalars
  %passed = part %frame %t TABLE_given
  %total = add i64 %nargs, %nkw
  for %j to %total then %guards
  %a = addr %args %j
  put ptr %a %regs %j
  next %j

guards:
  %g.first = addr %t TABLE_guards
  %g.end = addr %t TABLE_guards_end
  br label %next
next:
  %g = phi ptr [ %g.first, %guards ], [ %g.1, %good ]
  need ne ptr %g, %g.end else %yes
  %op = word %g GUARD_op
  %source = word %g GUARD_source
  %ga = addr %g GUARD_a
  %gb = word %g GUARD_b
  %x = addr %regs %source
  %type = addr %x OBJECT_type
  switch i64 %op, label %no [
    i64 GUARDS_array, label %array
    i64 GUARDS_ndarray, label %ndarray
    i64 GUARDS_float, label %float
    i64 GUARDS_int, label %int
    i64 GUARDS_bool, label %bool
    i64 GUARDS_complex, label %complex
    i64 GUARDS_within, label %within
    i64 GUARDS_same, label %identical
    i64 GUARDS_equal, label %alike
    i64 GUARDS_items, label %items
    i64 GUARDS_list, label %list
    i64 GUARDS_dict, label %dict
    i64 GUARDS_fields, label %fields
  ]

array:
  need eq ptr %type, const array else %no
  %aval = addr %x ARRAY_aval
  need eq ptr %aval, %ga else %no
  put ptr %x %passed %gb
  %info = addr %x ARRAY_info
  need ne ptr %info, null else %array.np
array.inside:
  %inside = addr %x ARRAY_data
  %x.owner = addr %x ARRAY_owner
  %x.itself = icmp eq ptr %x.owner, null
  %x.root = select i1 %x.itself, ptr %x, ptr %x.owner
  br label %leaf
array.np:
  %np = addr %x ARRAY_np
  need ne ptr %np, null else %no
  %np.type = addr %np OBJECT_type
  need eq ptr %np.type, const ndarray else %no
  %np.fp = getelementptr i8, ptr %np, i64 ND_flags
  %np.f = load i32, ptr %np.fp, align 8
  %np.m = and i32 %np.f, 257
  %np.whole = icmp eq i32 %np.m, 257
  br i1 %np.whole, label %array.np.data, label %unlike.np
unlike.np:
  br label %unlike
array.np.data:
  %np.data = addr %np ND_data
  br label %leaf

ndarray:
  need eq ptr %type, const ndarray else %no
  %descr = addr %x ND_descr
  %descr.word = word %descr DESCR_word
  %descr.m = and i64 %descr.word, DTYPE_MASK
  %dtype.want = ptrtoint ptr %ga to i64
  need eq i64 %descr.m, %dtype.want else %no
  %rank.p = getelementptr i8, ptr %x, i64 ND_ndim
  %rank32 = load i32, ptr %rank.p, align 8
  %rank = zext i32 %rank32 to i64
  %rank.want = word %g GUARD_c
  need eq i64 %rank, %rank.want else %no
  %dims = addr %x ND_dims
  %dims.want = addr %g GUARD_d
  for %k to %rank then %nd.data
  %dv = word %dims %k
  %dw = word %dims.want %k
  need eq i64 %dv, %dw else %no
  next %k
nd.data:
  %nd.cast = addr %g GUARD_e
  %nd.kind = word %nd.cast CAST_kind
  %nd.same = icmp eq i64 %nd.kind, CASTS_none
  %nd.fp = getelementptr i8, ptr %x, i64 ND_flags
  %nd.f = load i32, ptr %nd.fp, align 8
  %nd.m = and i32 %nd.f, 257
  %nd.whole = icmp eq i32 %nd.m, 257
  %nd.good = and i1 %nd.same, %nd.whole
  br i1 %nd.good, label %nd.take, label %unlike.nd
unlike.nd:
  br label %unlike
nd.take:
  %nd.d = addr %x ND_data
  br label %leaf

; A NumPy scalar: the number lies in it, and its first bytes are those of a narrower integer.
within:
  need eq ptr %type, %ga else %no
within.data:
  %w.p = getelementptr i8, ptr %x, i64 NUMBER
  br label %leaf

leaf:
  %data = phi ptr [ %inside, %array.inside ], [ %np.data, %array.np.data ], [ %nd.d, %nd.take ], [ %w.p, %within.data ]
  %root = phi ptr [ %x.root, %array.inside ], [ %np, %array.np.data ], [ %x, %nd.take ], [ %x, %within.data ]
  put ptr %data %inputs %gb
  put ptr %root %objects %gb
  br label %good

unlike:
  %odd.object = phi ptr [ %np, %unlike.np ], [ %x, %unlike.nd ], [ %x, %float.load ], [ %x, %complex.narrow ]
  %odd.cast = addr %g GUARD_e
  %odd.index = shl i64 %gb, 1
  put ptr null %inputs %gb
  put ptr %odd.object %objects %gb
  put ptr %odd.cast %scalars %odd.index
  store i64 1, ptr %odd, align 8
  br label %good

; Numbers that are not finite as floats may have overflowed, of which NumPy is to warn.
float:
  %f.type = addr %g GUARD_c
  need eq ptr %type, %f.type else %no
float.load:
  %f.p = getelementptr i8, ptr %x, i64 NUMBER
  %f.v = load double, ptr %f.p, align 8
  %f.b = bitcast double %f.v to i64
  %f.half = fptrunc double %f.v to float
  %f.hb = bitcast float %f.half to i32
  %f.hz = zext i32 %f.hb to i64
  %f.short = icmp eq ptr %ga, null
  %f.s = select i1 %f.short, i64 %f.hz, i64 %f.b
  %f.none = fsub float %f.half, %f.half
  %f.finite = fcmp ord float %f.none, %f.none
  %f.long = xor i1 %f.short, true
  %f.ok = or i1 %f.finite, %f.long
  br i1 %f.ok, label %scalar, label %unlike

int:
  need eq ptr %type, const int else %no
  %i.v = call i64 @PyLong_AsLongLongAndOverflow(ptr %x, ptr %overflow)
  %i.o = load i32, ptr %overflow, align 8
  need eq i32 %i.o, 0 else %no
int.range:
  %i.cut = trunc i64 %i.v to i32
  %i.back = sext i32 %i.cut to i64
  %i.small = icmp eq i64 %i.back, %i.v
  %i.long = icmp ne ptr %ga, null
  %i.ok = or i1 %i.small, %i.long
  br i1 %i.ok, label %scalar, label %no

bool:
  need eq ptr %type, const bool else %no
bool.load:
  %b.t = icmp eq ptr %x, %ga
  %b.v = zext i1 %b.t to i64
  br label %scalar

complex:
  %c.type = addr %g GUARD_c
  need eq ptr %type, %c.type else %no
  %c.p = getelementptr i8, ptr %x, i64 NUMBER
  %c.re = load double, ptr %c.p, align 8
  %c.ip = getelementptr double, ptr %c.p, i64 1
  %c.im = load double, ptr %c.ip, align 8
  %c.index = shl i64 %gb, 1
  %c.out = getelementptr i64, ptr %scalars, i64 %c.index
  need eq ptr %ga, null else %complex.long
complex.narrow:
  %c.sre = fptrunc double %c.re to float
  %c.sim = fptrunc double %c.im to float
  %c.nre = fsub float %c.sre, %c.sre
  %c.nim = fsub float %c.sim, %c.sim
  %c.finite = fcmp ord float %c.nre, %c.nim
  br i1 %c.finite, label %complex.short, label %unlike
complex.short:
  store float %c.sre, ptr %c.out, align 8
  %c.second = getelementptr float, ptr %c.out, i64 1
  store float %c.sim, ptr %c.second, align 4
  br label %complex.done
complex.long:
  store double %c.re, ptr %c.out, align 8
  %c.other = getelementptr double, ptr %c.out, i64 1
  store double %c.im, ptr %c.other, align 8
  br label %complex.done
complex.done:
  put ptr %c.out %inputs %gb
  put ptr null %objects %gb
  br label %good

scalar:
  %s = phi i64 [ %f.s, %float.load ], [ %i.v, %int.range ], [ %b.v, %bool.load ]
  %s.index = shl i64 %gb, 1
  %s.out = getelementptr i64, ptr %scalars, i64 %s.index
  store i64 %s, ptr %s.out, align 8
  put ptr %s.out %inputs %gb
  put ptr null %objects %gb
  br label %good

identical:
  if eq ptr %x, %ga then %good else %no

; The type is one of those built in whose comparison runs no Python code.
alike:
  %alike.wanted = addr %ga OBJECT_type
  need eq ptr %type, %alike.wanted else %no
  %alike.found = call i32 @PyObject_RichCompareBool(ptr %x, ptr %ga, i32 2)
  if eq i32 %alike.found, 1 then %good else %no

items:
  need eq ptr %type, %ga else %no
  %items.n = word %x TUPLE_size
  need eq i64 %items.n, %gb else %no
items.take:
  %items.from = getelementptr i64, ptr %x, i64 TUPLE_items
  br label %members

list:
  need eq ptr %type, const list else %no
  %list.n = word %x LIST_size
  need eq i64 %list.n, %gb else %no
list.take:
  %list.from = addr %x LIST_items
  br label %members

members:
  %from = phi ptr [ %items.from, %items.take ], [ %list.from, %list.take ]
  %to = word %g GUARD_c
  %to.p = getelementptr ptr, ptr %regs, i64 %to
  for %m to %gb then %good
  %mv = addr %from %m
  put ptr %mv %to.p %m
  next %m

dict:
  need eq ptr %type, const dict else %no
  %dict.n = word %x DICT_used
  need eq i64 %dict.n, %gb else %no
  store i64 0, ptr %position, align 8
  %dto = word %g GUARD_c
  %dto.p = getelementptr ptr, ptr %regs, i64 %dto
  for %e to %gb then %good
  %more = call i32 @PyDict_Next(ptr %x, ptr %position, ptr %keyat, ptr %valueat)
  need ne i32 %more, 0 else %no
  %key = load ptr, ptr %keyat, align 8
  %key.want = addr %ga %e
  need ne ptr %key, %key.want else %entry.good
  %str = const str
  %key.type = addr %key OBJECT_type
  %key.str = icmp eq ptr %key.type, %str
  %want.type = addr %key.want OBJECT_type
  %want.str = icmp eq ptr %want.type, %str
  %both = and i1 %key.str, %want.str
  br i1 %both, label %entry.compare, label %no
entry.compare:
  %order = call i32 @PyUnicode_Compare(ptr %key, ptr %key.want)
  need eq i32 %order, 0 else %no
entry.good:
  %ev = load ptr, ptr %valueat, align 8
  put ptr %ev %dto.p %e
  next %e

; Attributes, of a type that has not changed since it was found that reading them runs no Python code. The instance refers to what is read.
fields:
  need eq ptr %type, %ga else %no
  %type.flags = word %type TYPE_flags
  %versioned = and i64 %type.flags, TYPE_VERSIONED
  need eq i64 %versioned, TYPE_VERSIONED else %no
  %version.p = getelementptr i8, ptr %type, i64 TYPE_version
  %version32 = load i32, ptr %version.p, align 8
  %version = zext i32 %version32 to i64
  %version.want = word %g GUARD_e
  need eq i64 %version, %version.want else %no
  %fto = word %g GUARD_c
  %fto.p = getelementptr ptr, ptr %regs, i64 %fto
  %attributes = addr %g GUARD_d
  for %q to %gb then %good
  %attribute = addr %attributes %q
  %av = call ptr @PyObject_GetAttr(ptr %x, ptr %attribute)
  need ne ptr %av, null else %fields.none
  %av.count = word %av OBJECT_count
  call void @decref(ptr %av)
  need ne i64 %av.count, 1 else %no
  put ptr %av %fto.p %q
  next %q
fields.none:
  call void @PyErr_Clear()
  br label %no

good:
  %g.1 = getelementptr i64, ptr %g, i64 GUARD_WORDS
  br label %next
yes:
  ret i1 true
no:
  ret i1 false
}
"""
