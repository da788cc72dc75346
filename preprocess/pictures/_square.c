/* A JPEG's bytes -> the central square of the image, its shorter side resized, uint8 RGB.

The pixels are those of Pillow-SIMD's decode, resize(BICUBIC) and crop, byte for byte: the same libjpeg, the
same weights of 16 bits, the same rounding after each of the two passes. Each of Pillow's three calls makes a
whole image. Here lines pass through the L1 cache, and pixels outside the crop are not made:

    libjpeg -> lines, 4 bytes a pixel -> along the line: result's columns -> across lines: result's rows

Images with a libjpeg warning, and images that are neither RGB nor greyscale, are left to Pillow, which
reports their errors. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <setjmp.h>
#include <stdio.h>

#include <jpeglib.h>

#include "_resample.h"

#ifndef JCS_EXTENSIONS
#error "these are not libjpeg-turbo's headers; only it writes four bytes a pixel and crops lines"
#endif

#define MARGIN 64 /* pixels: libjpeg smooths colours across a crop's edge, in blocks of at most 32 */

typedef struct {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    jmp_buf escape;
    int avx2;
    int side;            /* of the result */
    int pixels, resized; /* most pixels of the image before and after the resize */
    int width, height, grey;
    int marked; /* whether the file has Exif data or further images */
    Filter along, across;
    uint8_t *decoded; /* TOGETHER lines of pixels */
    uint8_t *lines;   /* ring: results of the first pass for the last `kept` lines, line y at y % kept */
    uint8_t **window; /* the lines that one row of the result needs */
    int kept;
    size_t line_bytes;
    uint8_t *result;
    int results; /* rows of the result that are finished */
} Work;

static void escape_on_error(j_common_ptr jpeg) { longjmp(((Work *)jpeg->client_data)->escape, 1); }

static void escape_on_warning(j_common_ptr jpeg, int level)
{
    if (level < 0) escape_on_error(jpeg);
}

/* Resize `count` decoded lines, the first of which is line `y`, into the ring. */
static void first_pass(Work *w, const uint8_t *in, int y, int count, size_t stride, int left)
{
    uint8_t *out[TOGETHER];
    for (int i = 0; i < TOGETHER; i++) out[i] = w->lines + (size_t)((y + i) % w->kept) * w->line_bytes;
#ifdef HAVE_AVX2
    if (w->avx2) {
        along_avx2(in, stride, out, &w->along, left);
        return;
    }
#endif
    for (int i = 0; i < count; i++) along_plain(in + i * stride, out[i], &w->along, left);
}

/* Make all rows of the result that need only lines before `end`. */
static void second_pass(Work *w, int end)
{
    Filter *f = &w->across;
    for (; w->results < f->count && f->first[w->results] + f->used[w->results] <= end; w->results++) {
        int first = f->first[w->results], used = f->used[w->results], done = 0, bytes = w->along.count * RGB;
        const int16_t *weights = f->weights + (size_t)w->results * f->taps;
        uint8_t *out = w->result + (size_t)w->results * bytes;
        for (int i = 0; i < used; i++)
            w->window[i] = w->lines + (size_t)((first + i) % w->kept) * w->line_bytes;
#ifdef HAVE_AVX2
        if (w->avx2) done = across_avx2(w->window, used, weights, f->bits, out, bytes);
#endif
        across_plain(w->window, used, weights, f->bits, out, done, bytes);
    }
}

/* The length of a side when the shorter one becomes `side`: rounded, halves up. */
static int64_t resized_length(int64_t length, int64_t shorter, int side)
{
    return (2 * length * side + shorter) / (2 * shorter);
}

/* Whether a marker holds Exif data, or (MPF) an index of further images; colour profiles do not count. */
static int is_relevant(const struct jpeg_marker_struct *marker)
{
    if (marker->data_length < 4) return 0;
    return !memcmp(marker->data, "Exif", 4) || !memcmp(marker->data, "MPF", 4);
}

/* After the header: allocate filters and lines. Returns 0 for an image that is left to Pillow. */
static int prepare(Work *w)
{
    struct jpeg_decompress_struct *jpeg = &w->jpeg;
    J_COLOR_SPACE colours = jpeg->jpeg_color_space;
    int colour = jpeg->num_components == RGB && (colours == JCS_YCbCr || colours == JCS_RGB);
    w->grey = jpeg->num_components == 1 && colours == JCS_GRAYSCALE;
    for (jpeg_saved_marker_ptr marker = jpeg->marker_list; marker; marker = marker->next)
        w->marked |= is_relevant(marker);
    w->width = jpeg->image_width, w->height = jpeg->image_height;
    int shorter = w->width < w->height ? w->width : w->height;
    int64_t wide = resized_length(w->width, shorter, w->side),
            high = resized_length(w->height, shorter, w->side);
    if (!(colour || w->grey) || (int64_t)w->width * w->height > w->pixels || wide * high > w->resized)
        return 0;

    if (!filter_init(&w->along, w->width, wide, (wide - w->side) / 2, w->side)) return 0;
    if (!filter_init(&w->across, w->height, high, (high - w->side) / 2, w->side)) return 0;
    w->kept = w->across.taps + TOGETHER;
    w->line_bytes = (size_t)w->side * RGB + SLACK;
    w->lines = calloc(w->kept, w->line_bytes);
    w->window = calloc(w->across.taps, sizeof *w->window);
    return w->lines && w->window;
}

/* Returns whether the result was made. libjpeg may longjmp out of it. */
static int decode(Work *w)
{
    struct jpeg_decompress_struct *jpeg = &w->jpeg;
    jpeg_save_markers(jpeg, JPEG_APP0 + 1, 4); /* four bytes of each */
    jpeg_save_markers(jpeg, JPEG_APP0 + 2, 4);
    jpeg_read_header(jpeg, TRUE);
    if (!prepare(w)) return 0;
    jpeg->out_color_space = JCS_EXT_RGBX;
    jpeg_start_decompress(jpeg);

    const Filter *f = &w->along;
    int last = f->count - 1, begin = f->first[0] - MARGIN, end = f->first[last] + f->used[last] + MARGIN;
    JDIMENSION left = begin < 0 ? 0 : begin, wide = (end > w->width ? w->width : end) - left;
    if (wide < (JDIMENSION)w->width) jpeg_crop_scanline(jpeg, &left, &wide);

    /* libjpeg writes aligned lines past the caches, and these are read at once: so no line is aligned. */
    size_t stride = ((size_t)wide * PIXEL + SLACK - 1) / SLACK * SLACK;
    w->decoded = aligned_alloc(SLACK, (TOGETHER + 1) * stride + SLACK);
    if (!w->decoded) return 0;
    memset(w->decoded, 0, (TOGETHER + 1) * stride + SLACK);
    uint8_t *lines = w->decoded + SLACK / 4;
    int needed = w->across.first[0]; /* no row of the result needs a line before it */
    for (int y = 0, count = 0; y + count < w->height;) {
        JSAMPROW rows[TOGETHER];
        for (int i = 0; i < TOGETHER; i++) rows[i] = lines + i * stride;
        count += jpeg_read_scanlines(jpeg, rows + count, TOGETHER - count);
        if (count < TOGETHER && y + count < w->height) continue;
        if (y + count > needed && w->results < w->across.count) {
            first_pass(w, lines, y, count, stride, left);
            second_pass(w, y + count);
        }
        y += count, count = 0;
    }
    jpeg_finish_decompress(jpeg);
    return w->results == w->across.count;
}

/* `decode`, with 0 after an error. It is a function of its own: no local variable of it changes between
   setjmp and longjmp. */
static int decode_or_escape(Work *w, const uint8_t *data, size_t bytes)
{
    w->jpeg.err = jpeg_std_error(&w->errors);
    w->errors.error_exit = escape_on_error;
    w->errors.emit_message = escape_on_warning;
    w->jpeg.client_data = w;
    if (setjmp(w->escape)) return 0;
    jpeg_create_decompress(&w->jpeg);
    jpeg_mem_src(&w->jpeg, data, bytes);
    return decode(w);
}

static int make(Work *w, const uint8_t *data, size_t bytes)
{
    int made = decode_or_escape(w, data, bytes);
    jpeg_destroy_decompress(&w->jpeg);
    filter_free(&w->along), filter_free(&w->across);
    free(w->decoded), free(w->lines), free(w->window);
    return made;
}

static PyObject *square(PyObject *module, PyObject *arguments)
{
    Work w = {0};
    Py_buffer data;
    int plain, made;
    if (!PyArg_ParseTuple(arguments, "y*iiip", &data, &w.side, &w.pixels, &w.resized, &plain)) return NULL;
    PyObject *pixels = NULL, *result = NULL;
    if (w.side < 1)
        PyErr_SetString(PyExc_ValueError, "the square needs a side of one pixel or more");
    else
        pixels = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)w.side * w.side * RGB);
    if (pixels) {
#ifdef HAVE_AVX2
        w.avx2 = !plain && __builtin_cpu_supports("avx2");
#endif
        w.result = (uint8_t *)PyBytes_AS_STRING(pixels);
        Py_BEGIN_ALLOW_THREADS
        made = make(&w, data.buf, data.len);
        Py_END_ALLOW_THREADS
        PyObject *grey = w.grey ? Py_True : Py_False, *marked = w.marked ? Py_True : Py_False;
        if (made)
            result = Py_BuildValue("N(ii)OO", pixels, w.width, w.height, grey, marked);
        else
            Py_DECREF(pixels), result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&data);
    return result;
}

static const char square_doc[] =
    "square(data, side, pixels, resized, plain)\n--\n\n"
    "Decode a JPEG, resize its shorter side to `side`, and crop the central square.\n\n"
    "Returns uint8 [side, side, 3] as bytes, the original's (width, height), whether it is greyscale, and\n"
    "whether the file has Exif data or further images. Returns None where Pillow must do it: damage, four\n"
    "channels, more than `pixels` pixels before or `resized` after the resize. With `plain` no vector\n"
    "instructions are used; the bytes are the same.";

static PyMethodDef methods[] = {{"square", square, METH_VARARGS, square_doc}, {0}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_square", NULL, 0, methods};

PyMODINIT_FUNC PyInit__square(void) { return PyModule_Create(&module); }
