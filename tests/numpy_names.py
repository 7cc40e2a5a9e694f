"""What `tracegrad.numpy` promises: its functions with the names of their parameters, its other names, the members of arrays."""

from __future__ import annotations

FUNCTIONS = """
abs: x
absolute: x
acos: x
acosh: x
add: x1 x2
all: a axis out keepdims where
allclose: a b rtol atol equal_nan
amax: a axis out keepdims initial where
amin: a axis out keepdims initial where
angle: z deg
any: a axis out keepdims where
append: arr values axis
apply_along_axis: func1d axis arr args kwargs
apply_over_axes: func a axes
arange: start stop step dtype device out_sharding
arccos: x
arccosh: x
arcsin: x
arcsinh: x
arctan: x
arctan2: x1 x2
arctanh: x
argmax: a axis out keepdims
argmin: a axis out keepdims
argpartition: a kth axis
argsort: a axis kind order stable descending dtype
argwhere: a size fill_value
around: a decimals out
array: object dtype copy order ndmin device out_sharding
array_equal: a1 a2 equal_nan
array_equiv: a1 a2
array_repr: arr max_line_width precision suppress_small
array_split: ary indices_or_sections axis
array_str: a max_line_width precision suppress_small
asarray: a dtype order copy device out_sharding
asin: x
asinh: x
astype: x dtype copy device
atan: x
atan2: x1 x2
atanh: x
atleast_1d: arys
atleast_2d: arys
atleast_3d: arys
average: a axis weights returned keepdims
bartlett: M
bincount: x weights minlength length out_sharding
bitwise_and: x1 x2
bitwise_count: x
bitwise_invert: x
bitwise_left_shift: x1 x2
bitwise_not: x
bitwise_or: x1 x2
bitwise_right_shift: x1 x2
bitwise_xor: x1 x2
blackman: M
block: arrays
broadcast_arrays: args
broadcast_shapes: shapes
broadcast_to: array shape out_sharding
can_cast: from_ to casting
cbrt: x
ceil: x
choose: a choices out mode
clip: arr min max
column_stack: tup
compress: condition a axis size fill_value out
concat: arrays axis
concatenate: arrays axis dtype
conj: x
conjugate: x
convolve: a v mode precision preferred_element_type
copy: a order
copysign: x1 x2
corrcoef: x y rowvar dtype
correlate: a v mode precision preferred_element_type
cos: x
cosh: x
count_nonzero: a axis keepdims
cov: m y rowvar bias ddof fweights aweights dtype
cross: a b axisa axisb axisc axis
cumprod: a axis dtype out
cumsum: a axis dtype out
cumulative_prod: x axis dtype include_initial
cumulative_sum: x axis dtype include_initial
deg2rad: x
degrees: x
delete: arr obj axis assume_unique_indices
diag: v k
diag_indices: n ndim
diag_indices_from: arr
diagflat: v k
diagonal: a offset axis1 axis2
diff: a n axis prepend append
digitize: x bins right method
divide: x1 x2
divmod: x1 x2
dot: a b precision preferred_element_type out_sharding
dsplit: ary indices_or_sections
dstack: tup dtype
ediff1d: ary to_end to_begin
einsum: subscripts operands out optimize precision preferred_element_type _dot_general out_sharding
einsum_path: subscripts operands optimize
empty: shape dtype device out_sharding
empty_like: prototype dtype shape device
equal: x y
exp: x
exp2: x
expand_dims: a axis
expm1: x
extract: condition arr size fill_value
eye: N M k dtype device
fabs: x
fft.fft: a n axis norm
fft.fft2: a s axes norm
fft.fftfreq: n d dtype device
fft.fftn: a s axes norm
fft.fftshift: x axes
fft.hfft: a n axis norm
fft.ifft: a n axis norm
fft.ifft2: a s axes norm
fft.ifftn: a s axes norm
fft.ifftshift: x axes
fft.ihfft: a n axis norm
fft.irfft: a n axis norm
fft.irfft2: a s axes norm
fft.irfftn: a s axes norm
fft.rfft: a n axis norm
fft.rfft2: a s axes norm
fft.rfftfreq: n d dtype device
fft.rfftn: a s axes norm
fill_diagonal: a val wrap inplace
flatnonzero: a size fill_value
flip: m axis
fliplr: m
flipud: m
float_power: x y
floor: x
floor_divide: x1 x2
fmax: x1 x2
fmin: x1 x2
fmod: x1 x2
frexp: x
from_dlpack: x device copy
frombuffer: buffer dtype count offset
fromfile: args kwargs
fromfunction: function shape dtype kwargs
fromiter: args kwargs
frompyfunc: func nin nout identity
fromstring: string dtype count sep
full: shape fill_value dtype device out_sharding
full_like: a fill_value dtype shape device out_sharding
gcd: x1 x2
geomspace: start stop num endpoint dtype axis
get_printoptions:
gradient: f varargs axis edge_order
greater: x y
greater_equal: x y
hamming: M
hanning: M
heaviside: x1 x2
histogram: a bins range weights density
histogram2d: x y bins range weights density
histogram_bin_edges: a bins range weights
histogramdd: sample bins range weights density
hsplit: ary indices_or_sections
hstack: tup dtype
hypot: x1 x2
i0: x
identity: n dtype
imag: val
indices: dimensions dtype sparse
inner: a b precision preferred_element_type
insert: arr obj values axis
interp: x xp fp left right period
intersect1d: ar1 ar2 assume_unique return_indices size fill_value
invert: x
isclose: a b rtol atol equal_nan
iscomplex: x
iscomplexobj: x
isdtype: dtype kind
isfinite: x
isin: element test_elements assume_unique invert method
isinf: x
isnan: x
isneginf: x out
isposinf: x out
isreal: x
isrealobj: x
isscalar: element
issubdtype: arg1 arg2
iterable: y
ix_: args
kaiser: M beta
kron: a b
lcm: x1 x2
ldexp: x1 x2
left_shift: x1 x2
less: x y
less_equal: x y
lexsort: keys axis
linalg.cholesky: a upper symmetrize_input
linalg.cond: x p
linalg.cross: x1 x2 axis
linalg.det: a
linalg.diagonal: x offset
linalg.eig: a
linalg.eigh: a UPLO symmetrize_input
linalg.eigvals: a
linalg.eigvalsh: a UPLO symmetrize_input
linalg.inv: a
linalg.lstsq: a b rcond numpy_resid
linalg.matmul: x1 x2 precision preferred_element_type
linalg.matrix_norm: x keepdims ord
linalg.matrix_power: a n
linalg.matrix_rank: M rtol hermitian tol
linalg.matrix_transpose: x
linalg.multi_dot: arrays precision
linalg.norm: x ord axis keepdims
linalg.outer: x1 x2
linalg.pinv: a rtol hermitian rcond
linalg.qr: a mode
linalg.slogdet: a method
linalg.solve: a b
linalg.svd: a full_matrices compute_uv hermitian subset_by_index
linalg.svdvals: x
linalg.tensordot: a b axes precision preferred_element_type out_sharding
linalg.tensorinv: a ind
linalg.tensorsolve: a b axes
linalg.trace: x offset dtype
linalg.vecdot: x1 x2 axis precision preferred_element_type
linalg.vector_norm: x axis keepdims ord
linspace: start stop num endpoint retstep dtype axis device
load: file args kwargs
log: x
log10: x
log1p: x
log2: x
logaddexp: x1 x2
logaddexp2: x1 x2
logical_and: x y
logical_not: x
logical_or: x y
logical_xor: x y
logspace: start stop num endpoint base dtype axis
mask_indices: n mask_func k size
matmul: a b precision preferred_element_type out_sharding
matrix_transpose: x
matvec: x1 x2
max: a axis out keepdims initial where
maximum: x1 x2
mean: a axis dtype out keepdims where
median: a axis out overwrite_input keepdims
meshgrid: xi copy sparse indexing
min: a axis out keepdims initial where
minimum: x1 x2
mod: x1 x2
modf: x out
moveaxis: a source destination
multiply: x1 x2
nan_to_num: x copy nan posinf neginf
nanargmax: a axis out keepdims
nanargmin: a axis out keepdims
nancumprod: a axis dtype out
nancumsum: a axis dtype out
nanmax: a axis out keepdims initial where
nanmean: a axis dtype out keepdims where
nanmedian: a axis out overwrite_input keepdims
nanmin: a axis out keepdims initial where
nanpercentile: a q axis out overwrite_input method keepdims weights
nanprod: a axis dtype out keepdims initial where
nanquantile: a q axis out overwrite_input method keepdims weights
nanstd: a axis dtype out ddof keepdims where mean
nansum: a axis dtype out keepdims initial where
nanvar: a axis dtype out ddof keepdims where mean
ndim: a
negative: x
nextafter: x1 x2
nonzero: a size fill_value
not_equal: x y
ones: shape dtype device out_sharding
ones_like: a dtype shape device out_sharding
outer: a b out
packbits: a axis bitorder
pad: array pad_width mode kwargs
partition: a kth axis
percentile: a q axis out overwrite_input method keepdims weights out_sharding
permute_dims: a axes
piecewise: x condlist funclist args kw
place: arr mask vals inplace
poly: seq_of_zeros
polyadd: a1 a2
polyder: p m
polydiv: u v trim_leading_zeros
polyfit: x y deg rcond full w cov
polyint: p m k
polymul: a1 a2 trim_leading_zeros
polysub: a1 a2
polyval: p x unroll
positive: x
pow: x1 x2
power: x1 x2
printoptions: args kwargs
prod: a axis dtype out keepdims initial where promote_integers
promote_types: a b
ptp: a axis out keepdims
put: a ind v mode inplace
put_along_axis: arr indices values axis inplace mode
quantile: a q axis out overwrite_input method keepdims weights
rad2deg: x
radians: x
ravel: a order out_sharding
ravel_multi_index: multi_index dims mode order dtype
real: val
reciprocal: x
remainder: x1 x2
repeat: a repeats axis total_repeat_length out_sharding
reshape: a shape order copy out_sharding
resize: a new_shape
result_type: args
right_shift: x1 x2
rint: x
roll: a shift axis
rollaxis: a axis start
roots: p strip_zeros
rot90: m k axes
round: a decimals out
save: file arr allow_pickle
savez: file args allow_pickle kwds
searchsorted: a v side sorter method
select: condlist choicelist default
set_printoptions: precision threshold edgeitems linewidth suppress nanstr infstr formatter sign floatmode legacy override_repr
setdiff1d: ar1 ar2 assume_unique size fill_value
setxor1d: ar1 ar2 assume_unique size fill_value
shape: a
sign: x
signbit: x
sin: x
sinc: x
sinh: x
size: a axis
sort: a axis kind order stable descending
sort_complex: a
spacing: x
split: ary indices_or_sections axis
sqrt: x
square: x
squeeze: a axis
stack: arrays axis out dtype
std: a axis dtype out ddof keepdims where mean correction
subtract: x1 x2
sum: a axis dtype out keepdims initial where promote_integers
swapaxes: a axis1 axis2
take: a indices axis out mode unique_indices indices_are_sorted fill_value
take_along_axis: arr indices axis mode fill_value wrap_negative_indices
tan: x
tanh: x
tensordot: a b axes precision preferred_element_type out_sharding
tile: A reps
trace: a offset axis1 axis2 dtype out
transpose: a axes
trapezoid: y x dx axis
tri: N M k dtype
tril: m k
tril_indices: n k m
tril_indices_from: arr k
trim_zeros: filt trim axis
triu: m k
triu_indices: n k m
triu_indices_from: arr k
true_divide: x1 x2
trunc: x
union1d: ar1 ar2 size fill_value
unique: ar return_index return_inverse return_counts axis equal_nan size fill_value sorted
unique_all: x size fill_value
unique_counts: x size fill_value
unique_inverse: x size fill_value
unique_values: x size fill_value
unpackbits: a axis count bitorder
unravel_index: indices shape
unstack: x axis
unwrap: p discont axis period
vander: x N increasing
var: a axis dtype out ddof keepdims where mean correction
vdot: a b precision preferred_element_type
vecdot: x1 x2 axis precision preferred_element_type
vecmat: x1 x2
vectorize: pyfunc excluded signature
vsplit: ary indices_or_sections
vstack: tup dtype
where: condition x y size fill_value
zeros: shape dtype device out_sharding
zeros_like: a dtype shape device out_sharding
"""

VALUES = """
ComplexWarning bfloat16 bool bool_ c_ cdouble character complex128 complex64 complex_ complexfloating csingle double dtype e euler_gamma
finfo flexible float16 float32 float4_e2m1fn float64 float8_e3m4 float8_e4m3 float8_e4m3b11fnuz float8_e4m3fn float8_e4m3fnuz
float8_e5m2 float8_e5m2fnuz float8_e8m0fnu float_ floating generic iinfo index_exp inexact inf int16 int2 int32 int4 int64 int8 int_
integer mgrid nan ndarray newaxis number object_ ogrid pi r_ s_ signedinteger single ufunc uint uint16 uint2 uint32 uint4 uint64 uint8
unsignedinteger
"""

MEMBERS = """
all any argmax argmin argpartition argsort astype at choose clip compress conj conjugate copy cumprod cumsum diagonal dot dtype flat flatten
imag item itemsize mT max mean min nbytes ndim nonzero prod ptp ravel real repeat reshape round searchsorted shape size sort squeeze std
sum swapaxes T take tolist trace transpose var view weak_type aval block_until_ready devices is_deleted delete addressable_shards sharding
"""
