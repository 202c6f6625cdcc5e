// Runs the kernels on a CPU for tests/cuda_kernels.rs: launches come in on standard input, buffers go out again.
//
// A launch: the kernel's name, the grid's three sizes, threads of a block, bytes of scratch memory, in which order
// threads run (0 first to last, 1 last to first: a forgotten __syncthreads makes the results differ), and the
// arguments, each a letter (f float buffer, d double, u unsigned; i int, l long long, s float) and its value.
// All numbers are little-endian; names and buffers have their length in bytes in front. The answer is every buffer.
//
// What a GPU would not tell is an error here: an argument of the wrong type, a number read or written past the end of
// a buffer or of the scratch memory (the next page is not mapped), a barrier that not all threads reach. Scratch
// memory starts as NaN, so that reading it too early shows.

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../activation.cu"
#include "../attention.cu"
#include "../embedding.cu"
#include "../head.cu"
#include "../optimizer.cu"
#include "../rms_norm.cu"
#include "../rope.cu"

Index threadIdx, blockIdx, blockDim, gridDim;
void* shared_memory;

namespace {

[[noreturn]] void fail(const std::string& why) {
    std::fprintf(stderr, "%s\n", why.c_str());
    std::exit(1);
}

// ---- Memory that ends where a page begins that cannot be touched.

struct Guarded {
    char* base = nullptr;
    char* data = nullptr;
    size_t mapped = 0;

    explicit Guarded(size_t bytes) {
        const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        mapped = (bytes + page - 1) / page * page + page;
        void* got = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (got == MAP_FAILED) fail("out of memory");
        base = static_cast<char*>(got);
        mprotect(base + mapped - page, page, PROT_NONE);
        data = base + mapped - page - bytes;
    }
    Guarded(const Guarded&) = delete;
    Guarded(Guarded&& other) noexcept {
        std::swap(base, other.base);
        std::swap(data, other.data);
        std::swap(mapped, other.mapped);
    }
    ~Guarded() {
        if (base) munmap(base, mapped);
    }
};

// ---- A block of fibers.

enum class State { Ready, InWarp, InBlock, Done };

struct Fiber {
    bool begun;      // it has a stack, and stands at `here`
    jmp_buf here;
    State state;
    unsigned exchanges;  // how many there were: two slots take turns
    char slots[2][8];
};

constexpr unsigned WARP_LANES = 32;
constexpr unsigned MOST_THREADS = 1024;
constexpr size_t STACK = 128 << 10;

std::vector<Fiber> fibers(MOST_THREADS);
jmp_buf scheduler;
unsigned running;
const struct Body* body;

struct Body {
    virtual void run() const = 0;
    virtual ~Body() = default;
};

// Fibers change places by setjmp and longjmp: unlike swapcontext these do not ask the kernel, which would take most
// of the time. (The program is compiled without the checks of longjmp, which know of one stack only.)
void wait(State until) {
    Fiber& fiber = fibers[running];
    fiber.state = until;
    if (_setjmp(fiber.here) == 0) _longjmp(scheduler, 1);
}

// A fiber does its thread's part of one block after the other, of one launch after the other.
void enter() {
    for (;;) {
        body->run();
        wait(State::Done);
    }
}

// Runs fiber `running` until it waits.
void resume(char* stacks) {
    Fiber& fiber = fibers[running];
    if (_setjmp(scheduler) != 0) return;
    if (fiber.begun) _longjmp(fiber.here, 1);
    fiber.begun = true;
    ucontext_t start;
    getcontext(&start);
    start.uc_stack.ss_sp = stacks + running * STACK;
    start.uc_stack.ss_size = STACK;
    start.uc_link = nullptr;
    makecontext(&start, enter, 0);
    setcontext(&start);
}

// Whether all of some threads wait in the same way; then they go on.
bool release(State from, unsigned first, unsigned past) {
    for (unsigned t = first; t < past; t++) {
        if (fibers[t].state != from) return false;
    }
    for (unsigned t = first; t < past; t++) fibers[t].state = State::Ready;
    return true;
}

// Each warp runs as far ahead of the others as it can: what may go wrong without a barrier goes wrong.
void run_block(unsigned threads, bool backwards, char* stacks) {
    for (unsigned t = 0; t < threads; t++) {
        fibers[t].state = State::Ready;
        fibers[t].exchanges = 0;
    }
    const unsigned warps = threads / WARP_LANES;
    unsigned done = 0;
    while (done < threads) {
        for (unsigned w = 0; w < warps; w++) {
            const unsigned first = (backwards ? warps - 1 - w : w) * WARP_LANES;
            do {
                for (unsigned i = 0; i < WARP_LANES; i++) {
                    running = first + (backwards ? WARP_LANES - 1 - i : i);
                    if (fibers[running].state != State::Ready) continue;
                    threadIdx = {running, 0, 0};
                    resume(stacks);
                    done += fibers[running].state == State::Done;
                }
            } while (release(State::InWarp, first, first + WARP_LANES));
        }
        if (done < threads && !release(State::InBlock, 0, threads)) fail("threads wait for others that do not come");
    }
}

// ---- Launches.

struct Arg {
    char kind = 0;
    char value[8] = {};
    void* buffer = nullptr;
};

template <class T>
struct Kind;
template <> struct Kind<int> { static constexpr char is = 'i'; };
template <> struct Kind<long long> { static constexpr char is = 'l'; };
template <> struct Kind<float> { static constexpr char is = 's'; };
template <> struct Kind<float*> { static constexpr char is = 'f'; };
template <> struct Kind<double*> { static constexpr char is = 'd'; };
template <> struct Kind<unsigned*> { static constexpr char is = 'u'; };

template <class T>
struct Bare { using type = T; };
template <class T>
struct Bare<const T*> { using type = T*; };

template <class T>
T read_arg(const Arg& arg) {
    if (arg.kind != Kind<typename Bare<T>::type>::is) fail("an argument of the wrong type");
    T value;
    if constexpr (std::is_pointer_v<T>) {
        value = static_cast<T>(arg.buffer);
    } else {
        std::memcpy(&value, arg.value, sizeof(T));
    }
    return value;
}

template <class... A>
struct Call final : Body {
    void (*kernel)(A...);
    const std::vector<Arg>& args;
    Call(void (*kernel)(A...), const std::vector<Arg>& args) : kernel(kernel), args(args) {
        if (args.size() != sizeof...(A)) fail("a wrong number of arguments");
    }
    template <size_t... I>
    void with(std::index_sequence<I...>) const { kernel(read_arg<A>(args[I])...); }
    void run() const override { with(std::index_sequence_for<A...>()); }
};

using Make = Body* (*)(const std::vector<Arg>&);
template <auto Kernel>
Body* make(const std::vector<Arg>& args) { return new Call(Kernel, args); }

#define ENTRY(name) {#name, make<name>}
#define ATTENTION_ENTRIES(D) \
    ENTRY(attention_forward_##D), ENTRY(attention_backward_queries_##D), ENTRY(attention_backward_keys_##D)
const std::map<std::string, Make> kernels = {
    ENTRY(rms_norm_forward), ENTRY(rms_norm_backward), ENTRY(rms_norm_weight_parts), ENTRY(rms_norm_weight_sum),
    ENTRY(rope), ENTRY(gate_forward), ENTRY(gate_backward), ENTRY(gate_backward_and_forward),
    ENTRY(attention_delta), ATTENTION_ENTRIES(64), ATTENTION_ENTRIES(128), ATTENTION_ENTRIES(256),
    ENTRY(softcap), ENTRY(cross_entropy),
    ENTRY(embedding_forward), ENTRY(embedding_backward), ENTRY(adamw), ENTRY(square_parts), ENTRY(square_total),
};

// False at the end of the input.
bool read(void* to, size_t bytes) { return std::fread(to, 1, bytes, stdin) == bytes; }

template <class T>
T read_number() {
    T number;
    if (!read(&number, sizeof(T))) fail("the input ends inside a launch");
    return number;
}

// Answers one launch.
void serve(uint32_t name_length, char* stacks) {
    std::string name(name_length, ' ');
    read(name.data(), name_length);
    const auto x = read_number<uint32_t>(), y = read_number<uint32_t>(), z = read_number<uint32_t>();
    const auto threads = read_number<uint32_t>(), scratch = read_number<uint32_t>(), order = read_number<uint32_t>();
    std::vector<Arg> args(read_number<uint32_t>());
    std::vector<Guarded> buffers;
    std::vector<uint64_t> lengths;
    for (Arg& arg : args) {
        arg.kind = read_number<char>();
        if (arg.kind == 'i' || arg.kind == 's') {
            read(arg.value, 4);
        } else if (arg.kind == 'l') {
            read(arg.value, 8);
        } else {
            lengths.push_back(read_number<uint64_t>());
            arg.buffer = buffers.emplace_back(lengths.back()).data;
            read(arg.buffer, lengths.back());
        }
    }
    const auto found = kernels.find(name);
    if (found == kernels.end()) fail("no kernel " + name);
    if (threads == 0 || threads > MOST_THREADS || threads % WARP_LANES != 0) fail("blocks are of whole warps");
    body = found->second(args);
    blockDim = {threads, 1, 1};
    gridDim = {x, y, z};
    Guarded shared(scratch);
    shared_memory = shared.data;
    for (unsigned block = 0; block < x * y * z; block++) {
        blockIdx = {block % x, block / x % y, block / x / y};
        std::memset(shared.data, 0xff, scratch);
        run_block(threads, order == 1, stacks);
    }
    delete body;
    for (size_t i = 0; i < buffers.size(); i++) std::fwrite(buffers[i].data, 1, lengths[i], stdout);
    std::fflush(stdout);
}

}  // namespace

void __syncthreads() { wait(State::InBlock); }

const void* exchange_in_warp(const void* value, size_t bytes, unsigned mask) {
    const unsigned me = running;
    const unsigned slot = fibers[me].exchanges++ % 2;
    std::memcpy(fibers[me].slots[slot], value, bytes);
    wait(State::InWarp);
    return fibers[me ^ mask].slots[slot];
}

int main() {
    Guarded stacks(MOST_THREADS * STACK);
    uint32_t name_length;
    while (read(&name_length, sizeof(name_length))) serve(name_length, stacks.data);
    return 0;
}
