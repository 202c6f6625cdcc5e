//! Rows: seeds, threads, precision; and what belongs to other machinery.

macro_rules! runtime_rows {
    ($left:tt $finish:ident { $($members:tt)* } { $($others:tt)* }) => { rows! { $left $finish {
        $($members)*
        Runtime {
            done seed: u64 = "42", Advanced,
                "Fixes the order of rows and everything random: the same seed gives the same run."
                { min: Some(0.0) };
            done data_seed: Option<u64> = "null", Advanced,
                "Seed of the order of rows alone; left out, as `seed`." { min: Some(0.0) };
            done threads: Option<usize> = "null", Advanced,
                "Threads that compute; left out, all cores. Another number changes the last digits."
                { unit: "threads", min: Some(1.0), max: Some(1024.0) };
            done use_cpu: bool = "false", Advanced,
                "Compute on the CPU even where this program was built for GPUs and finds one.";
            done gradient_checkpointing: bool = "false", Advanced,
                "Keep only each layer's input and compute the rest again on the way back: less memory, about a third slower, the same numbers but for the order of sums.";
            done activation_memory: Option<usize> = "null", Advanced,
                "Most memory that a micro-batch may keep for the way back; layers beyond it are computed again, where that is faster than more passes. Left out, what the machine has free."
                { unit: "MiB", min: Some(0.0) };
            done bf16: bool = "false", Advanced,
                "Products of bfloat16 numbers with sums in f32, where the CPU has a unit for them (AMX, AVX-512 BF16, Arm's bf16), and the frozen base of an adapter in bfloat16: half the memory. What is trained stays f32.";
            done fp16: bool = "false", Advanced,
                "Hold the frozen base of an adapter in half precision; products stay f32 on a CPU. bf16 is faster and holds larger numbers; prefer it.";
            done pure_bf16: bool = "false", Advanced,
                "The same as bf16 here: what is trained stays f32, so that small updates are not lost.";
        }
    } {
        $($others)*
        Runtime {
            idle("evaluation computes as training does") {
                bf16_full_eval: bool = "false";
                fp16_full_eval: bool = "false";
            }
            idle("it concerns GPUs") {
                tf32: Option<bool> = "null";
                torch_empty_cache_steps: Option<i64> = "null";
                skip_memory_metrics: bool = "true";
            }
            idle("there is no torch here, and the kernels are compiled already") {
                torch_compile: bool = "false";
                torch_compile_backend: Option<String> = "null";
                torch_compile_mode: Option<String> = "null";
                debug: String = "";
            }
            idle("every run is deterministic") { full_determinism: bool = "false"; }
            idle("there is one process on one machine") {
                local_rank: i64 = "-1";
                ddp_find_unused_parameters: Option<bool> = "null";
                ddp_bucket_cap_mb: Option<i64> = "null";
                ddp_broadcast_buffers: Option<bool> = "null";
                ddp_static_graph: Option<bool> = "null";
                ddp_backend: Option<String> = "null";
                ddp_timeout: i64 = "1800";
                ray_num_workers: i64 = "1";
                ray_init_kwargs: Option<Map<String, Value>> = "null";
                master_addr: Option<String> = "null";
                master_port: Option<String> = "null";
            }
            never("training on several devices or machines is not supported") {
                fsdp: Vec<String> = "";
                fsdp_config: Option<Map<String, Value>> = "null";
                deepspeed: Option<String> = "null";
                parallelism_config: Option<Map<String, Value>> = "null";
                accelerator_config: Option<Map<String, Value>> = "null";
            }
            never("8-bit floating point needs a GPU") { fp8: bool = "false"; }
            idle("only `fp8` reads it") {
                fp8_backend: String = "auto";
                fp8_enable_fsdp_float8_all_gather: bool = "false";
            }
            never("there is no torch here to profile") { enable_torch_profiler: bool = "false"; }
            idle("only `enable_torch_profiler` reads it") {
                profiler_output_dir: Option<String> = "null" { kind: Kind::Path };
                profiler_wait_steps: i64 = "1";
                profiler_warmup_steps: i64 = "1";
                profiler_active_steps: i64 = "1";
                profiler_repeat: i64 = "1";
                profiler_record_shapes: bool = "true";
                profiler_profile_memory: bool = "true";
                profiler_with_stack: bool = "true";
                profile_modules: Option<String> = "null";
            }
        }
    } } };
}
