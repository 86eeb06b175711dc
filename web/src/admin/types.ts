// What `/v1/admin` answers; landrace/server/admin/schema.py says what each part is.

export interface Percentiles {
  p50: number | null;
  p90: number | null;
  p99: number | null;
}

export interface Sample {
  seconds_ago: number;
  prompt: number;
  generated: number;
  running: number;
  waiting: number;
}

export interface CacheGroup {
  kind: string;
  size: number;
  held: number;
  reusable: number;
  free: number;
}

export interface ModelState {
  id: string;
  state: string;
  trouble: string | null;
  memory_bytes: number;
  resident_bytes: number | null;
  restarts: number | null;
  unfinished: number;
  running: number | null;
  waiting: number | null;
  cache: CacheGroup[];
  adapters: { id: string; problem: string | null }[];
}

export interface Overview {
  version: string;
  uptime_seconds: number;
  memory_bytes: number;
  models: ModelState[];
  tokens_per_second: { prompt: number; generated: number };
  history: Sample[];
  latency: { window_seconds: number; answers: number; first_token: Percentiles; token: Percentiles; whole: Percentiles };
  first_tokens: ({ seconds_ago: number } & Percentiles)[];
  answers: Record<string, number>;
  errors: Record<string, number>;
  usage: { status: "ok" | "degraded"; reason: string | null; waiting: number; spilled: number; lost: number; refused: number };
  has_ledger: boolean;
  has_jobs: boolean;
}

export interface UsageRow {
  group: Record<string, string | null>;
  key_name: string | null;
  requests: number;
  prompt_tokens: number;
  cached_prompt_tokens: number;
  completion_tokens: number;
  machine_seconds: number;
  cost: number;
}

export interface KeyRow {
  id: string;
  name: string;
  team: string;
  models: string[] | null;
  routes: string[] | null;
  is_admin: boolean;
  requests_per_minute: number | null;
  tokens_per_minute: number | null;
  money_per_month: number | null;
  revoked: string | null;
  is_valid: boolean;
  requests_this_month: number;
  tokens_this_month: number;
  spent_this_month: number;
}

export interface TuningRow {
  id: string;
  model: string;
  status: string;
  owner: string;
  created_at: number;
  fine_tuned_model: string | null;
  total_steps: number | null;
  losses: { step: number; train_loss: number; valid_loss: number | null }[];
  error: string | null;
}

export interface BatchRow {
  id: string;
  endpoint: string;
  status: string;
  owner: string;
  created_at: number;
  total: number;
  completed: number;
  failed: number;
}

export interface Jobs {
  tuning: TuningRow[];
  batches: BatchRow[];
}

export interface FeedbackRow {
  response_id: string;
  rating: "up" | "down" | null;
  has_correction: boolean;
  has_comment: boolean;
  correction: string | null;
  comment: string | null;
  team: string | null;
  key_id: string | null;
  created: string;
}
