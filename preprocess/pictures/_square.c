/* A JPEG's bytes -> the central square of the picture, its shorter side resized, uint8 RGB.

The pixels are those of Pillow-SIMD's own decode, resize(BICUBIC) and crop, byte for byte: the same libjpeg,
the same weights in 16 bits, the same rounding after each of the two passes. Three calls of Pillow's make a
whole picture each; here lines of it pass through the first cache, and what the crop throws away is not made:

    libjpeg -> lines, 4 bytes a pixel -> along the line: result's columns -> across lines: result's rows

Only pictures without a blemish: whatever libjpeg warns of, and whatever is neither colour nor grey, is left
to Pillow, which knows what to say of it. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <setjmp.h>
#include <stdio.h>

#include <jpeglib.h>

#include "_resample.h"

#ifndef JCS_EXTENSIONS
#error "these are not libjpeg-turbo's headers: it alone can write four bytes a pixel and cut lines"
#endif

#define MARGIN 64 /* pixels: libjpeg smooths colours across a cut, and cuts at blocks of at most 32 */

typedef struct {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    jmp_buf escape;
    int avx2;
    int side;            /* of the result */
    int pixels, resized; /* at most so many, of the picture before and after the resize */
    int width, height, grey;
    int marked; /* whether there is more to say of the picture: it has Exif, or others behind it */
    Filter along, across;
    uint8_t *decoded; /* TOGETHER lines of pixels */
    uint8_t *lines;   /* what the first pass made of the last `kept` lines, line y at y % kept */
    uint8_t **window; /* the lines that one result reads */
    int kept;
    size_t line_bytes;
    uint8_t *result;
    int results; /* rows made */
} Work;

static void give_up(j_common_ptr jpeg) { longjmp(((Work *)jpeg->client_data)->escape, 1); }

static void no_warnings(j_common_ptr jpeg, int level)
{
    if (level < 0) give_up(jpeg);
}

/* Into the ring: `count` decoded lines, the first of them line `y`. */
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

/* All rows of the result that lines before `end` are enough for. */
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

/* What a side becomes when the shorter one becomes `side`: the nearest whole number, halves up. */
static int64_t brought_to(int64_t length, int64_t shorter, int side)
{
    return (2 * length * side + shorter) / (2 * shorter);
}

/* Whether a marker holds Exif or names further pictures; colour profiles and the like say nothing here. */
static int says_more(const struct jpeg_marker_struct *marker)
{
    if (marker->data_length < 4) return 0;
    return !memcmp(marker->data, "Exif", 4) || !memcmp(marker->data, "MPF", 4);
}

/* After the header: whether the picture is one for us, and all that its size decides. */
static int prepare(Work *w)
{
    struct jpeg_decompress_struct *jpeg = &w->jpeg;
    J_COLOR_SPACE colours = jpeg->jpeg_color_space;
    int colour = jpeg->num_components == RGB && (colours == JCS_YCbCr || colours == JCS_RGB);
    w->grey = jpeg->num_components == 1 && colours == JCS_GRAYSCALE;
    for (jpeg_saved_marker_ptr marker = jpeg->marker_list; marker; marker = marker->next)
        w->marked |= says_more(marker);
    w->width = jpeg->image_width, w->height = jpeg->image_height;
    int shorter = w->width < w->height ? w->width : w->height;
    int64_t wide = brought_to(w->width, shorter, w->side), high = brought_to(w->height, shorter, w->side);
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

/* Whether the result was made; libjpeg may jump out of it. */
static int decode(Work *w)
{
    struct jpeg_decompress_struct *jpeg = &w->jpeg;
    jpeg_save_markers(jpeg, JPEG_APP0 + 1, 4); /* their first bytes */
    jpeg_save_markers(jpeg, JPEG_APP0 + 2, 4);
    jpeg_read_header(jpeg, TRUE);
    if (!prepare(w)) return 0;
    jpeg->out_color_space = JCS_EXT_RGBX;
    jpeg_start_decompress(jpeg);

    const Filter *f = &w->along;
    int last = f->count - 1, begin = f->first[0] - MARGIN, end = f->first[last] + f->used[last] + MARGIN;
    JDIMENSION left = begin < 0 ? 0 : begin, wide = (end > w->width ? w->width : end) - left;
    if (wide < (JDIMENSION)w->width) jpeg_crop_scanline(jpeg, &left, &wide);

    /* To an aligned line libjpeg writes past the caches, and it is read here at once: so none is aligned. */
    size_t stride = ((size_t)wide * PIXEL + SLACK - 1) / SLACK * SLACK;
    w->decoded = aligned_alloc(SLACK, (TOGETHER + 1) * stride + SLACK);
    if (!w->decoded) return 0;
    memset(w->decoded, 0, (TOGETHER + 1) * stride + SLACK);
    uint8_t *lines = w->decoded + SLACK / 4;
    int needed = w->across.first[0]; /* lines before it no result reads */
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

/* `decode` with its exits. A function of its own: nothing of its own changes between setjmp and a jump. */
static int decode_or_escape(Work *w, const uint8_t *data, size_t bytes)
{
    w->jpeg.err = jpeg_std_error(&w->errors);
    w->errors.error_exit = give_up;
    w->errors.emit_message = no_warnings;
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

static const char square_says[] =
    "square(data, side, pixels, resized, plain)\n--\n\n"
    "Decode a JPEG, bring its shorter side to `side`, and cut the central square.\n\n"
    "Returns uint8 [side, side, 3] as bytes, the picture's (width, height), whether it is grey, and whether\n"
    "it has Exif or pictures behind it. None where Pillow must look: damage, four channels, more pixels "
    "than\n"
    "`pixels` before or `resized` after the resize. `plain` uses no vectors; the bytes are the same.";

static PyMethodDef methods[] = {{"square", square, METH_VARARGS, square_says}, {0}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_square", NULL, 0, methods};

PyMODINIT_FUNC PyInit__square(void) { return PyModule_Create(&module); }
