"""LLVM IR of the compiled dispatcher: whether the arguments of a call are those of a table.

Guards are records that are executed in turn on *registers*, places in the frame: the first ones hold the arguments, a guard of a container puts its members into
the next ones. Guards of leaves leave the address of the data in `inputs` and what keeps the data alive in `objects`. `runtime.dispatch_code` explains
the abbreviations.
"""

from __future__ import annotations

MATCH = """
define internal i1 @match(ptr %t, ptr %args, i64 %n, ptr %kwnames, ptr %frame) alwaysinline nounwind {
entry:
  %overflow = alloca i32, align 8
  %position = alloca i64, align 8
  %keyat = alloca ptr, align 8
  %valueat = alloca ptr, align 8
  %epoch = word %t TABLE_epoch
  %now = const64 epoch
  %current = icmp eq i64 %epoch, %now
  br i1 %current, label %count, label %no
count:
  %nargs = word %t TABLE_nargs
  %all = icmp eq i64 %nargs, %n
  br i1 %all, label %named, label %no
named:
  %nkw = word %t TABLE_nkw
  %nameless = icmp eq ptr %kwnames, null
  br i1 %nameless, label %unnamed, label %names
unnamed:
  %zero = icmp eq i64 %nkw, 0
  br i1 %zero, label %copy, label %no
names:
  %given = word %kwnames TUPLE_size
  %same = icmp eq i64 %given, %nkw
  br i1 %same, label %names.first, label %no
names.first:
  %wanted = addr %t TABLE_names
  %have = getelementptr i64, ptr %kwnames, i64 TUPLE_items
  br label %names.next
names.next:
  %i = phi i64 [ 0, %names.first ], [ %i.1, %names.good ]
  %names.end = icmp eq i64 %i, %nkw
  br i1 %names.end, label %copy, label %names.test
names.test:
  %wp = getelementptr ptr, ptr %wanted, i64 %i
  %w = load ptr, ptr %wp, align 8
  %hp = getelementptr ptr, ptr %have, i64 %i
  %h = load ptr, ptr %hp, align 8
  %equal = icmp eq ptr %w, %h
  br i1 %equal, label %names.good, label %no
names.good:
  %i.1 = add i64 %i, 1
  br label %names.next

copy:
  %regs.at = word %t TABLE_regs
  %regs = getelementptr i64, ptr %frame, i64 %regs.at
  %inputs.at = word %t TABLE_inputs
  %inputs = getelementptr i64, ptr %frame, i64 %inputs.at
  %objects.at = word %t TABLE_objects
  %objects = getelementptr i64, ptr %frame, i64 %objects.at
  %scalars.at = word %t TABLE_scalars
  %scalars = getelementptr i64, ptr %frame, i64 %scalars.at
  %total = add i64 %nargs, %nkw
  br label %copy.next
copy.next:
  %j = phi i64 [ 0, %copy ], [ %j.1, %copy.one ]
  %copy.end = icmp eq i64 %j, %total
  br i1 %copy.end, label %guards, label %copy.one
copy.one:
  %ap = getelementptr ptr, ptr %args, i64 %j
  %a = load ptr, ptr %ap, align 8
  %rp = getelementptr ptr, ptr %regs, i64 %j
  store ptr %a, ptr %rp, align 8
  %j.1 = add i64 %j, 1
  br label %copy.next

guards:
  %g.first = addr %t TABLE_guards
  %g.end = addr %t TABLE_guards_end
  br label %next
next:
  %g = phi ptr [ %g.first, %guards ], [ %g.1, %good ]
  %done = icmp eq ptr %g, %g.end
  br i1 %done, label %yes, label %test
test:
  %op = word %g GUARD_op
  %source = word %g GUARD_source
  %ga = addr %g GUARD_a
  %gb = word %g GUARD_b
  %xp = getelementptr ptr, ptr %regs, i64 %source
  %x = load ptr, ptr %xp, align 8
  %type = addr %x OBJECT_type
  switch i64 %op, label %no [
    i64 GUARDS_array, label %array
    i64 GUARDS_ndarray, label %ndarray
    i64 GUARDS_float, label %float
    i64 GUARDS_int, label %int
    i64 GUARDS_bool, label %bool
    i64 GUARDS_complex, label %complex
    i64 GUARDS_same, label %identical
    i64 GUARDS_equal, label %alike
    i64 GUARDS_items, label %items
    i64 GUARDS_list, label %list
    i64 GUARDS_dict, label %dict
  ]

array:
  %array.type = const array
  %array.is = icmp eq ptr %type, %array.type
  br i1 %array.is, label %array.aval, label %no
array.aval:
  %aval = addr %x ARRAY_aval
  %aval.is = icmp eq ptr %aval, %ga
  br i1 %aval.is, label %array.where, label %no
array.where:
  %info = addr %x ARRAY_info
  %foreign = icmp eq ptr %info, null
  br i1 %foreign, label %array.np, label %array.inside
array.inside:
  %inside = addr %x ARRAY_data
  %x.owner = addr %x ARRAY_owner
  %x.itself = icmp eq ptr %x.owner, null
  %x.root = select i1 %x.itself, ptr %x, ptr %x.owner
  br label %leaf
array.np:
  %np = addr %x ARRAY_np
  %np.none = icmp eq ptr %np, null
  br i1 %np.none, label %no, label %array.np.type
array.np.type:
  %np.type = addr %np OBJECT_type
  %nd.type0 = const ndarray
  %np.is = icmp eq ptr %np.type, %nd.type0
  br i1 %np.is, label %array.np.flags, label %no
array.np.flags:
  %np.fp = getelementptr i8, ptr %np, i64 ND_flags
  %np.f = load i32, ptr %np.fp, align 8
  %np.m = and i32 %np.f, 257
  %np.good = icmp eq i32 %np.m, 257
  br i1 %np.good, label %array.np.data, label %no
array.np.data:
  %np.data = addr %np ND_data
  br label %leaf

ndarray:
  %nd.type = const ndarray
  %nd.is = icmp eq ptr %type, %nd.type
  br i1 %nd.is, label %nd.flags, label %no
nd.flags:
  %nd.fp = getelementptr i8, ptr %x, i64 ND_flags
  %nd.f = load i32, ptr %nd.fp, align 8
  %nd.m = and i32 %nd.f, 257
  %nd.good = icmp eq i32 %nd.m, 257
  br i1 %nd.good, label %nd.dtype, label %no
nd.dtype:
  %descr = addr %x ND_descr
  %descr.word = word %descr DESCR_word
  %descr.m = and i64 %descr.word, DTYPE_MASK
  %dtype.want = ptrtoint ptr %ga to i64
  %dtype.is = icmp eq i64 %descr.m, %dtype.want
  br i1 %dtype.is, label %nd.rank, label %no
nd.rank:
  %rank.p = getelementptr i8, ptr %x, i64 ND_ndim
  %rank32 = load i32, ptr %rank.p, align 8
  %rank = zext i32 %rank32 to i64
  %rank.want = word %g GUARD_c
  %rank.is = icmp eq i64 %rank, %rank.want
  br i1 %rank.is, label %nd.dims, label %no
nd.dims:
  %dims = addr %x ND_dims
  %dims.want = addr %g GUARD_d
  br label %nd.dim
nd.dim:
  %k = phi i64 [ 0, %nd.dims ], [ %k.1, %nd.dim.good ]
  %dims.end = icmp eq i64 %k, %rank
  br i1 %dims.end, label %nd.data, label %nd.dim.test
nd.dim.test:
  %dp = getelementptr i64, ptr %dims, i64 %k
  %dv = load i64, ptr %dp, align 8
  %dwp = getelementptr i64, ptr %dims.want, i64 %k
  %dw = load i64, ptr %dwp, align 8
  %dim.is = icmp eq i64 %dv, %dw
  br i1 %dim.is, label %nd.dim.good, label %no
nd.dim.good:
  %k.1 = add i64 %k, 1
  br label %nd.dim
nd.data:
  %nd.d = addr %x ND_data
  br label %leaf

leaf:
  %data = phi ptr [ %inside, %array.inside ], [ %np.data, %array.np.data ], [ %nd.d, %nd.data ]
  %root = phi ptr [ %x.root, %array.inside ], [ %np, %array.np.data ], [ %x, %nd.data ]
  %inp = getelementptr ptr, ptr %inputs, i64 %gb
  store ptr %data, ptr %inp, align 8
  %objp = getelementptr ptr, ptr %objects, i64 %gb
  store ptr %root, ptr %objp, align 8
  br label %good

float:
  %f.type = const float
  %f.is = icmp eq ptr %type, %f.type
  br i1 %f.is, label %float.load, label %no
float.load:
  %f.p = getelementptr i8, ptr %x, i64 NUMBER
  %f.v = load double, ptr %f.p, align 8
  %f.b = bitcast double %f.v to i64
  %f.half = fptrunc double %f.v to float
  %f.hb = bitcast float %f.half to i32
  %f.hz = zext i32 %f.hb to i64
  %f.short = icmp eq ptr %ga, null
  %f.s = select i1 %f.short, i64 %f.hz, i64 %f.b
  br label %scalar

int:
  %i.type = const int
  %i.is = icmp eq ptr %type, %i.type
  br i1 %i.is, label %int.load, label %no
int.load:
  %i.v = call i64 @PyLong_AsLongLongAndOverflow(ptr %x, ptr %overflow)
  %i.o = load i32, ptr %overflow, align 8
  %i.fits = icmp eq i32 %i.o, 0
  br i1 %i.fits, label %int.range, label %no
int.range:
  %i.cut = trunc i64 %i.v to i32
  %i.back = sext i32 %i.cut to i64
  %i.small = icmp eq i64 %i.back, %i.v
  %i.long = icmp ne ptr %ga, null
  %i.ok = or i1 %i.small, %i.long
  br i1 %i.ok, label %scalar, label %no

bool:
  %b.type = const bool
  %b.is = icmp eq ptr %type, %b.type
  br i1 %b.is, label %bool.load, label %no
bool.load:
  %b.t = icmp eq ptr %x, %ga
  %b.v = zext i1 %b.t to i64
  br label %scalar

complex:
  %c.type = const complex
  %c.is = icmp eq ptr %type, %c.type
  br i1 %c.is, label %complex.load, label %no
complex.load:
  %c.p = getelementptr i8, ptr %x, i64 NUMBER
  %c.re = load double, ptr %c.p, align 8
  %c.ip = getelementptr double, ptr %c.p, i64 1
  %c.im = load double, ptr %c.ip, align 8
  %c.index = shl i64 %gb, 1
  %c.out = getelementptr i64, ptr %scalars, i64 %c.index
  %c.short = icmp eq ptr %ga, null
  br i1 %c.short, label %complex.short, label %complex.long
complex.short:
  %c.sre = fptrunc double %c.re to float
  %c.sim = fptrunc double %c.im to float
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
  %c.in = getelementptr ptr, ptr %inputs, i64 %gb
  store ptr %c.out, ptr %c.in, align 8
  %c.obj = getelementptr ptr, ptr %objects, i64 %gb
  store ptr null, ptr %c.obj, align 8
  br label %good

scalar:
  %s = phi i64 [ %f.s, %float.load ], [ %i.v, %int.range ], [ %b.v, %bool.load ]
  %s.index = shl i64 %gb, 1
  %s.out = getelementptr i64, ptr %scalars, i64 %s.index
  store i64 %s, ptr %s.out, align 8
  %s.in = getelementptr ptr, ptr %inputs, i64 %gb
  store ptr %s.out, ptr %s.in, align 8
  %s.obj = getelementptr ptr, ptr %objects, i64 %gb
  store ptr null, ptr %s.obj, align 8
  br label %good

identical:
  %identical.is = icmp eq ptr %x, %ga
  br i1 %identical.is, label %good, label %no

; The type is one of those built in whose comparison runs no Python code.
alike:
  %alike.wanted = addr %ga OBJECT_type
  %alike.type = icmp eq ptr %type, %alike.wanted
  br i1 %alike.type, label %alike.compare, label %no
alike.compare:
  %alike.found = call i32 @PyObject_RichCompareBool(ptr %x, ptr %ga, i32 2)
  %alike.is = icmp eq i32 %alike.found, 1
  br i1 %alike.is, label %good, label %no

items:
  %items.type = icmp eq ptr %type, %ga
  br i1 %items.type, label %items.size, label %no
items.size:
  %items.n = word %x TUPLE_size
  %items.all = icmp eq i64 %items.n, %gb
  br i1 %items.all, label %items.take, label %no
items.take:
  %items.from = getelementptr i64, ptr %x, i64 TUPLE_items
  br label %members

list:
  %list.type = const list
  %list.is = icmp eq ptr %type, %list.type
  br i1 %list.is, label %list.size, label %no
list.size:
  %list.n = word %x LIST_size
  %list.all = icmp eq i64 %list.n, %gb
  br i1 %list.all, label %list.take, label %no
list.take:
  %list.from = addr %x LIST_items
  br label %members

members:
  %from = phi ptr [ %items.from, %items.take ], [ %list.from, %list.take ]
  %to = word %g GUARD_c
  %to.p = getelementptr ptr, ptr %regs, i64 %to
  br label %member
member:
  %m = phi i64 [ 0, %members ], [ %m.1, %member.one ]
  %m.end = icmp eq i64 %m, %gb
  br i1 %m.end, label %good, label %member.one
member.one:
  %mp = getelementptr ptr, ptr %from, i64 %m
  %mv = load ptr, ptr %mp, align 8
  %mr = getelementptr ptr, ptr %to.p, i64 %m
  store ptr %mv, ptr %mr, align 8
  %m.1 = add i64 %m, 1
  br label %member

dict:
  %dict.type = const dict
  %dict.is = icmp eq ptr %type, %dict.type
  br i1 %dict.is, label %dict.size, label %no
dict.size:
  %dict.n = word %x DICT_used
  %dict.all = icmp eq i64 %dict.n, %gb
  br i1 %dict.all, label %dict.first, label %no
dict.first:
  store i64 0, ptr %position, align 8
  %dto = word %g GUARD_c
  %dto.p = getelementptr ptr, ptr %regs, i64 %dto
  br label %entry.next
entry.next:
  %e = phi i64 [ 0, %dict.first ], [ %e.1, %entry.good ]
  %e.end = icmp eq i64 %e, %gb
  br i1 %e.end, label %good, label %entry.test
entry.test:
  %more = call i32 @PyDict_Next(ptr %x, ptr %position, ptr %keyat, ptr %valueat)
  %over = icmp eq i32 %more, 0
  br i1 %over, label %no, label %entry.key
entry.key:
  %key = load ptr, ptr %keyat, align 8
  %kwp = getelementptr ptr, ptr %ga, i64 %e
  %key.want = load ptr, ptr %kwp, align 8
  %key.same = icmp eq ptr %key, %key.want
  br i1 %key.same, label %entry.good, label %entry.text
entry.text:
  %str = const str
  %key.type = addr %key OBJECT_type
  %key.str = icmp eq ptr %key.type, %str
  %want.type = addr %key.want OBJECT_type
  %want.str = icmp eq ptr %want.type, %str
  %both = and i1 %key.str, %want.str
  br i1 %both, label %entry.compare, label %no
entry.compare:
  %order = call i32 @PyUnicode_Compare(ptr %key, ptr %key.want)
  %key.equal = icmp eq i32 %order, 0
  br i1 %key.equal, label %entry.good, label %no
entry.good:
  %ev = load ptr, ptr %valueat, align 8
  %er = getelementptr ptr, ptr %dto.p, i64 %e
  store ptr %ev, ptr %er, align 8
  %e.1 = add i64 %e, 1
  br label %entry.next

good:
  %g.1 = getelementptr i64, ptr %g, i64 GUARD_WORDS
  br label %next
yes:
  ret i1 true
no:
  ret i1 false
}
"""
