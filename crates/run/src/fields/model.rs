//! Rows: which model, and how it is read.

macro_rules! model_rows {
    ($left:tt $finish:ident { $($members:tt)* } { $($others:tt)* }) => { rows! { $left $finish {
        $($members)*
        Model {
            done model_name_or_path: Option<String> = "null", Basic,
                "Folder of the model (config.json, safetensors, tokenizer.json), a .gguf file, or a hub name that already lies in a Hugging Face or ModelScope cache on this machine."
                { kind: Kind::Path };
            done adapter_name_or_path: Vec<String> = "", Advanced,
                "Folders of LoRA adapters, separated by commas: all but the last are merged into the model, the last is trained on as its adapter_config.json describes it.";
            done adapter_folder: Option<String> = "null", Advanced,
                "Folder inside each of `adapter_name_or_path` that holds the adapter's files.";
            done cache_dir: Option<String> = "null", Advanced,
                "Where a hub name is looked up before the usual caches." { kind: Kind::Path };
            done resize_vocab: bool = "false", Advanced,
                "Add rows to the embedding for tokens that the tokenizer has and the model lacks.";
            done split_special_tokens: bool = "false", Advanced,
                "Read the text of special tokens in the data as plain text.";
            done add_tokens: Vec<String> = "", Advanced, "New plain tokens, separated by commas.";
            done add_special_tokens: Vec<String> = "", Advanced,
                "New special tokens, separated by commas.";
            done new_special_tokens_config: Option<String> = "null", Advanced,
                "YAML file that gives each new special token a description." { kind: Kind::Path };
            done init_special_tokens: InitSpecialTokens = "noise_init", Advanced,
                "How the embedding rows of new tokens begin.";
            done model_revision: String = "main", Advanced,
                "Branch, tag or commit of a hub model; its snapshot must lie in the cache.";
            done rope_scaling: Option<RopeScaling> = "null", Advanced,
                "Stretches the context where `cutoff_len` is beyond what the model was trained on, by the cutoff over that length, rounded up.";
            done train_from_scratch: bool = "false", Advanced,
                "Begin with random weights: only config.json and the tokenizer of the model are read.";
            done quantization_method: String = "bnb", Advanced,
                "Whose formats are used: bitsandbytes' (`bnb`) are the ones there are."
                { needs: Some(("finetuning_type", "lora")) };
            done quantization_bit: Option<u64> = "null", Advanced,
                "Keep the frozen base model in 4 or 8 bits and train LoRA over it. A GGUF file's own blocks stay as they are."
                { unit: "bits", min: Some(1.0), max: Some(8.0), needs: Some(("finetuning_type", "lora")) };
            done quantization_type: String = "nf4", Advanced,
                "Format of 4-bit weights: `nf4` or `fp4`."
                { needs: Some(("quantization_bit", "4")) };
            done double_quantization: bool = "true", Advanced,
                "Quantise the scales of 4-bit weights too: less memory, a little less exact."
                { needs: Some(("quantization_bit", "4")) };
        }
    } {
        $($others)*
        Model {
            idle("tokenizers here are always the fast ones") { use_fast_tokenizer: bool = "true"; }
            idle("weights are read once, straight to where they are used") {
                low_cpu_mem_usage: bool = "true";
                offload_folder: String = "offload";
            }
            idle("attention is computed exactly by the engine's own kernel, which needs no choice") {
                flash_attn: String = "auto";
            }
            idle("a speed-up of GPU kernels; the engine has fused kernels of its own") {
                use_unsloth: bool = "false";
                use_unsloth_gc: bool = "false";
                enable_liger_kernel: bool = "false";
                use_liger_kernel: bool = "false";
                liger_kernel_config: Option<Map<String, Value>> = "null";
                use_v1_kernels: Option<bool> = "false";
            }
            idle("activations are computed again only where `gradient_checkpointing` asks for it") {
                disable_gradient_checkpointing: bool = "false";
                use_reentrant_gc: bool = "true";
                gradient_checkpointing_kwargs: Option<Map<String, Value>> = "null";
            }
            idle("norms and the head are computed in f32 already") {
                upcast_layernorm: bool = "false";
                upcast_lmhead_output: bool = "false";
            }
            idle("text is generated with a key-value cache, and training keeps none") {
                use_kv_cache: bool = "true";
                use_cache: bool = "false";
            }
            idle("inference has one type here, that of training") { infer_dtype: String = "auto"; }
            idle("a run downloads nothing, and a token is never stored") {
                hf_hub_token: Option<String> = "null" { secret: true };
                ms_hub_token: Option<String> = "null" { secret: true };
                om_hub_token: Option<String> = "null" { secret: true };
            }
            idle("code that comes with a model is never run") { trust_remote_code: bool = "false"; }
            idle("the log always tells the trainable parameters") {
                print_param_status: bool = "false";
            }
            idle("there is one device") { quantization_device_map: Option<String> = "null"; }
            idle("models here read text only") {
                image_max_pixels: i64 = "589824";
                image_min_pixels: i64 = "1024";
                image_do_pan_and_scan: bool = "false";
                crop_to_patches: bool = "false";
                video_max_pixels: i64 = "65536";
                video_min_pixels: i64 = "256";
                video_fps: f64 = "2.0";
                video_maxlen: i64 = "128";
                use_audio_in_video: bool = "false";
                audio_sampling_rate: i64 = "16000";
            }
            idle("only an export reads it, a training run does not") {
                export_dir: Option<String> = "null" { kind: Kind::Path };
                export_size: i64 = "5";
                export_device: String = "cpu";
                export_quantization_bit: Option<i64> = "null";
                export_quantization_dataset: Option<String> = "null";
                export_quantization_nsamples: i64 = "128";
                export_quantization_maxlen: i64 = "1024";
                export_legacy_format: bool = "false";
                export_hub_model_id: Option<String> = "null";
            }
            idle("only the vLLM and SGLang backends read it") {
                vllm_maxlen: i64 = "4096";
                vllm_gpu_util: f64 = "0.7";
                vllm_enforce_eager: bool = "false";
                vllm_max_lora_rank: i64 = "32";
                vllm_config: Option<Map<String, Value>> = "null";
                sglang_maxlen: i64 = "4096";
                sglang_mem_fraction: f64 = "0.7";
                sglang_tp_size: i64 = "-1";
                sglang_config: Option<Map<String, Value>> = "null";
                sglang_lora_backend: String = "triton";
            }
            idle("only `use_kt` reads it") {
                kt_weight_path: Option<String> = "null";
                kt_expert_checkpoint_path: Option<String> = "null";
                kt_use_lora_experts: Option<bool> = "null";
                kt_lora_expert_num: Option<i64> = "null";
                kt_lora_expert_intermediate_size: Option<i64> = "null";
            }
            never("text is generated by the engine itself; vLLM and SGLang are other programs") {
                infer_backend: String = "huggingface";
            }
            never("KTransformers is another program") { use_kt: bool = "false"; }
            never("shifted sparse attention is not supported; use `cutoff_len` within the model's context") {
                shift_attn: bool = "false";
            }
            never("mixture-of-depths models are not supported") {
                mixture_of_depths: Option<String> = "null";
            }
            never("mixture-of-experts models are not supported") {
                moe_aux_loss_coef: Option<f64> = "null";
            }
        }
    } } };
}
