// The calls that the operator's page makes.
import { Connection } from "../api/connection";
import type { FeedbackRow, Jobs, KeyRow, Overview, UsageRow } from "./types";

export class AdminClient extends Connection {
  overview(): Promise<Overview> {
    return this.get("overview");
  }

  async usage(by: string, days: number): Promise<UsageRow[]> {
    return (await this.get<{ data: UsageRow[] }>(`usage?by=${by}&days=${days}`)).data;
  }

  async keys(): Promise<KeyRow[]> {
    return (await this.get<{ data: KeyRow[] }>("keys")).data;
  }

  jobs(): Promise<Jobs> {
    return this.get("jobs");
  }

  async feedback(): Promise<FeedbackRow[]> {
    return (await this.get<{ data: FeedbackRow[] }>("feedback")).data;
  }

  async bundle(): Promise<ArrayBuffer> {
    return (await this.call("v1/admin/bundle", {})).arrayBuffer();
  }

  private async get<Reply>(path: string): Promise<Reply> {
    return (await (await this.call(`v1/admin/${path}`, {})).json()) as Reply;
  }
}
